package ml

import (
	"encoding/json"
	"maps"
	"regexp"
	"slices"
	"strings"

	"github.com/sallyport/sallyport/arm"
	"github.com/sallyport/sallyport/mlext/wire"
	"github.com/sallyport/sallyport/trust"
)

// Where a job's program finds what it reads and leaves what it writes.
const (
	dataRoot   = "/mnt/azureml"
	codePath   = dataRoot + "/code"
	inputPath  = dataRoot + "/inputs/"
	outputPath = dataRoot + "/outputs/"
)

// jobInput and jobOutput are ARM's.
type jobInput struct {
	JobInputType string
	Mode         string
	URI          string
	Value        json.RawMessage
}

type jobOutput struct {
	JobOutputType string
	Mode          string
	URI           string
	AssetName     string
}

var dataName = regexp.MustCompile(`^[A-Za-z_][A-Za-z0-9_]{0,62}$`)

// jobData reads code, inputs and outputs of a job: its mounts, what they are in
// the store, and its command with the places filled in.
func (k *call) jobData(j *jobBody, p *jobPrivate) error {
	p.Reads, p.Writes = map[string]place{}, map[string]string{}
	values := map[string]string{}
	set := func(kind, name, value string) {
		values[kind+"s."+name] = value
		p.Job.Environment["AZURE_ML_"+strings.ToUpper(kind)+"_"+name] = value
	}
	if j.CodeID != "" {
		at, err := k.resolve("properties.codeId", j.CodeID)
		if err != nil {
			return err
		}
		p.Reads["code"], p.Job.WorkDir = at, codePath
		p.Job.Mounts = append(p.Job.Mounts, wire.Mount{Name: "code", Way: wire.Read, Path: codePath, Writable: true})
	}
	for _, name := range slices.Sorted(maps.Keys(j.Inputs)) {
		value, err := k.input(name, j.Inputs[name], p)
		if err != nil {
			return err
		}
		set("input", name, value)
	}
	for _, name := range slices.Sorted(maps.Keys(j.Outputs)) {
		value, err := k.output(name, j.Outputs[name], p)
		if err != nil {
			return err
		}
		set("output", name, value)
	}
	var err error
	p.Job.Command, err = filled(j.Command, values)
	return err
}

// input gives what ${{inputs.name}} stands for.
func (k *call) input(name string, raw json.RawMessage, p *jobPrivate) (string, error) {
	property := "properties.inputs." + name
	bad := func(format string, args ...any) (string, error) {
		return "", arm.BadParameter(property, format, args...)
	}
	var in jobInput
	if !dataName.MatchString(name) {
		return bad("an input's name has 1 to 63 letters, digits and '_'")
	}
	if json.Unmarshal(raw, &in) != nil {
		return bad("it is no object with jobInputType")
	}
	switch trust.Fold(in.JobInputType) {
	case "literal":
		var text string
		if json.Unmarshal(in.Value, &text) != nil {
			text = string(in.Value)
		}
		if strings.HasPrefix(text, "{") || strings.HasPrefix(text, "[") {
			return bad("a literal is text, a number or a boolean")
		}
		return text, nil
	case "uri_file", "uri_folder", "custom_model", "mlflow_model", "triton_model":
	default:
		return bad("the type '%.40s' is not supported; literals, uri_file, uri_folder and models are", in.JobInputType)
	}
	mount := wire.Mount{Name: "inputs." + name, Way: wire.Read, Path: inputPath + name}
	switch trust.Fold(in.Mode) {
	case "", "readonlymount", "ro_mount":
	case "download":
		mount.Writable = true
	default:
		return bad("the mode '%.40s' is not supported; ReadOnlyMount and Download are, and both fetch the files before the program starts", in.Mode)
	}
	at, err := k.resolve(property, in.URI)
	if err != nil {
		return "", err
	}
	if trust.Fold(in.JobInputType) == "uri_file" && at.File == "" {
		return bad("'%.200s' is a folder, not a file", in.URI)
	}
	p.Job.Mounts, p.Reads[mount.Name] = append(p.Job.Mounts, mount), at
	if at.File != "" {
		return mount.Path + "/" + at.File, nil
	}
	return mount.Path, nil
}

func (k *call) output(name string, raw json.RawMessage, p *jobPrivate) (string, error) {
	property := "properties.outputs." + name
	bad := func(format string, args ...any) (string, error) {
		return "", arm.BadParameter(property, format, args...)
	}
	var out jobOutput
	if !dataName.MatchString(name) {
		return bad("an output's name has 1 to 63 letters, digits and '_'")
	}
	if len(raw) > 0 && string(raw) != "null" && json.Unmarshal(raw, &out) != nil {
		return bad("it is no object with jobOutputType")
	}
	switch {
	case k.Storage == nil:
		return "", noStore(property)
	case out.URI != "":
		return bad("where it is kept cannot be chosen: leave uri out")
	case out.AssetName != "":
		return bad("it is not registered by itself: make a model or data of %s<job>/outputs/%s", jobsURI, name)
	}
	mount := wire.Mount{Name: "outputs." + name, Way: wire.Write, Path: outputPath + name}
	switch trust.Fold(out.Mode) {
	case "", "readwritemount", "rw_mount":
		mount.Live = true
	case "upload":
	default:
		return bad("the mode '%.40s' is not supported; ReadWriteMount (kept while it runs) and Upload (kept when it has ended) are", out.Mode)
	}
	value := mount.Path
	switch kind := trust.Fold(out.JobOutputType); kind {
	case "", "uri_folder", "custom_model", "mlflow_model", "triton_model":
	case "uri_file":
		value += "/" + name
	default:
		return bad("the type '%.40s' is not supported; uri_file, uri_folder and models are", out.JobOutputType)
	}
	p.Job.Mounts, p.Writes[name] = append(p.Job.Mounts, mount), out.JobOutputType
	return value, nil
}

var (
	reference = regexp.MustCompile(`\$\{\{\s*((?:inputs|outputs)\.[A-Za-z_][A-Za-z0-9_]*)\s*\}\}`)
	optional  = regexp.MustCompile(`\$\[\[((?:[^\]]|\][^\]])*)\]\]`)
)

// filled puts values for ${{inputs.x}} and ${{outputs.x}}. What stands in
// $[[…]] is left out where it names an input that was not given.
func filled(command string, values map[string]string) (string, error) {
	command = optional.ReplaceAllStringFunc(command, func(s string) string {
		s = s[3 : len(s)-2]
		for _, m := range reference.FindAllStringSubmatch(s, -1) {
			if _, given := values[m[1]]; !given {
				return ""
			}
		}
		return s
	})
	missing := ""
	command = reference.ReplaceAllStringFunc(command, func(s string) string {
		name := reference.FindStringSubmatch(s)[1]
		value, given := values[name]
		if !given && missing == "" {
			missing = name
		}
		return value
	})
	if missing == "" {
		if m := anyReference.FindString(command); m != "" {
			missing = strings.Trim(m, "${} ")
		}
	}
	if missing != "" {
		return "", arm.BadParameter("properties.command", "the command names %.100s, which the job does not have", missing)
	}
	return command, nil
}

var anyReference = regexp.MustCompile(`\$\{\{[^}]*\}\}`)
