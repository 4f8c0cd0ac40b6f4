package ml

import (
	"encoding/json"
	"errors"
	"strings"
	"time"

	"github.com/google/uuid"

	"github.com/sallyport/sallyport/arm"
	"github.com/sallyport/sallyport/store"
	"github.com/sallyport/sallyport/trust"
)

// A hold is the record that lets an upload be named: whoever is told that bytes
// are there has a hold of them for a while, whoever names them guards it, and the
// sweep takes it away before the bytes. The name of an upload is never used
// again, so a deletion cannot reach what was uploaded later.

// holds is the type of these records, which are served nowhere.
const holds = "uploads"

// holdFor is how long an upload is there at least after somebody was told its
// name; a hold that is younger than half of it is good enough.
const holdFor = sweepGrace

// holdPrivate is what ml keeps with a hold.
type holdPrivate struct {
	Held    string    // name of the upload: half of it from the content, half random; in hex
	Content string    // uploadHash
	Until   time.Time // before which the bytes stay, named or not
}

const halfName = 32

func holdID(workspace, name string) string {
	return workspace + "/" + holds + "/" + name[:halfName] + "/" + name[halfName:]
}

// holdUpload gives the name of an upload of this content that stays for now: one
// that was begun already, or a new one.
func (k *call) holdUpload(content string) (string, error) {
	now, w := k.Now().UTC(), &k.workspace.Value
	all, _, err := store.List[store.Provided](k.ctx, k.Store, store.ProvidedKey(w.ID+"/"+holds+"/"+content[:halfName])+"/")
	if err != nil {
		return "", err
	}
	for i := range all {
		r := all[i].Value
		p, err := readHold(&r)
		if err != nil {
			return "", err
		}
		if r.Parent != k.workspace.Created || p.Content != content {
			continue
		}
		if p.Until.Sub(now) > holdFor/2 {
			return p.Held, nil
		}
		p.Until = now.Add(holdFor)
		if r.Private, err = json.Marshal(p); err != nil {
			return "", err
		}
		if err = k.commit(store.Update(r, all[i].Revision)); !errors.Is(err, store.ErrConflict) {
			return p.Held, err
		}
		break // it was taken away, or somebody was faster: one of our own
	}
	p := holdPrivate{Content: content, Until: now.Add(holdFor)}
	p.Held = content[:halfName] + strings.ReplaceAll(uuid.NewString(), "-", "")
	r := store.Provided{ID: holdID(w.ID, p.Held), Type: Namespace + "/" + Tracked + "/" + holds, UID: uuid.NewString(), Parent: k.workspace.Created,
		State: arm.Succeeded, Stamp: store.Stamp{}.Touched(&k.Caller, now)}
	if r.Private, err = json.Marshal(p); err != nil {
		return "", err
	}
	return p.Held, k.commit(store.Create(r))
}

func readHold(r *store.Provided) (p holdPrivate, err error) {
	if err = json.Unmarshal(r.Private, &p); err != nil {
		return p, trust.Errorf(trust.Internal, "the record of an upload cannot be read").Because(err)
	}
	return p, nil
}

// held relies on an upload's being there when the call commits. An error of kind
// NotFound: it is not.
func (k *call) held(name string) error {
	item, err := store.Get[store.Provided](k.ctx, k.Store, store.ProvidedKey(holdID(k.workspace.Value.ID, name)))
	if err == nil && item.Value.Parent != k.workspace.Created {
		return trust.Errorf(trust.NotFound, "the upload is of an earlier workspace")
	}
	if err == nil {
		k.rely(&item)
	}
	return err
}
