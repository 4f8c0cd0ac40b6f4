package wire

// Bytes of a workspace's store go straight between a pod and the store, by
// signed URLs that last minutes. A pod asks the extension's gateway for them
// when it needs them; the gateway, which cannot reach the ML service, keeps the
// ask until the service fetches it by long poll, and hands the answer to the pod
// that waits. Nothing of it is in an object of the cluster.
//
//	pod      POST /pods/asks           an Ask; the answer is an Answer, within MaxWait
//	pod      GET  /pods/ended?wait=    Ended, when the pod's program has ended
//	service  GET  /asks?wait=          []Ask, of the workspace that calls
//	service  PUT  /asks/<id>           an Answer
const (
	// PodAudience of the token with which a pod proves which one it is: a
	// ServiceAccount token bound to the pod, good for nothing but this.
	PodAudience = "sallyport-ml"
	// MaxFiles of one ask, and of one answer.
	MaxFiles = 500
	// MaxTransfer of an ask or an answer, in bytes of JSON: so many files with the
	// longest names, and their URLs.
	MaxTransfer = 4 << 20
	// MaxFileSize is what a store takes in one PUT, in bytes.
	MaxFileSize = 5 << 30
	// LogsMount is where the extension's gateway itself keeps a job's logs; no pod
	// has a mount of this name.
	LogsMount = "logs"
)

// Ways of a mount.
const (
	Read  = "read"  // filled before the program starts
	Write = "write" // kept while it runs and after it has ended
)

// Mount is a folder of a pod. What it is in the store the ML service alone
// knows, by the owner's uid and the mount's name.
type Mount struct {
	Name     string `json:"name"` // "code", or "inputs.<name>", "outputs.<name>", "model"
	Way      string `json:"way"`
	Path     string `json:"path"`               // absolute, of the folder
	Writable bool   `json:"writable,omitempty"` // of one to read: the program may change its copy
	Live     bool   `json:"live,omitempty"`     // of one to write: kept while the program runs, too
}

// Ask is what a pod wants to read or write of one mount.
type Ask struct {
	ID string `json:"id,omitempty"`
	// Whose pod it is. The gateway says so, whatever the pod sent.
	Job        string `json:"job,omitempty"`        // uid
	Deployment string `json:"deployment,omitempty"` // uid
	Resource   string `json:"resource,omitempty"`   // its path below the workspace: "jobs/<name>", …
	Node       int    `json:"node"`                 // of a job
	Pod        string `json:"pod,omitempty"`        // name, or of a log the pod's uid: new with each attempt

	Mount string `json:"mount"`
	After string `json:"after,omitempty"` // of a read: the Next of the answer before
	Files []File `json:"files,omitempty"` // of a write
}

// File is one in a mount. Path is relative, with slashes.
type File struct {
	Path   string `json:"path"`
	Size   int64  `json:"size"`
	SHA256 string `json:"sha256,omitempty"` // hex
}

// Answer has a signed URL for each file: GET or PUT, with exactly these headers.
type Answer struct {
	Files []SignedFile `json:"files,omitempty"`
	Next  string       `json:"next,omitempty"` // of a read: there is more
	// Trust is PEM: who signs the store's certificate. Empty: the usual CAs.
	Trust string `json:"trust,omitempty"`
	// Error says why there is nothing, for good.
	Error *Error `json:"error,omitempty"`
}

// SignedFile is a file with what may be done with it.
type SignedFile struct {
	File
	URL    string            `json:"url"`
	Header map[string]string `json:"header,omitempty"`
}

// Ended says how a pod's program has ended; empty while it runs.
type Ended struct {
	Ended    bool  `json:"ended"`
	ExitCode int32 `json:"exitCode"`
}
