package ml

import (
	"cmp"
	"fmt"
	"net/http"
	"regexp"
	"slices"
	"strings"

	"github.com/sallyport/sallyport/arm"
	"github.com/sallyport/sallyport/mlext/wire"
)

// logsBody asks for the list of a job's log files, or for a piece of one.
type logsBody struct {
	File   string // "node-0/attempt-0"; "": the list
	Offset int64
	Wait   int // seconds to wait for more, at most wire.MaxWait
}

// jobLogs hands a question about logs on to the cluster.
func (k *call) jobLogs() (*arm.Answer, error) {
	item, err := k.find()
	if err != nil {
		return nil, err
	}
	var b logsBody
	if len(k.Body) > 0 {
		if err := arm.Decode(k.Body, &b); err != nil {
			return nil, err
		}
	}
	p, err := readJob(&item.Value)
	if err != nil {
		return nil, err
	}
	if !p.Told {
		return &arm.Answer{Status: http.StatusOK, Body: map[string]any{"files": []wire.LogFile{}, "status": item.Value.State}}, nil
	}
	if b.File == "" {
		files, err := k.listLogs(&p)
		if err != nil {
			return nil, err
		}
		body := map[string]any{"files": files, "status": item.Value.State}
		if k.Storage != nil {
			body["trust"] = k.Storage.CA
		}
		return &arm.Answer{Status: http.StatusOK, Body: body}, nil
	}
	e, err := k.reach(k.ctx, &k.workspace, p.Cluster)
	if err != nil {
		return nil, err
	}
	if !logFile.MatchString(b.File) {
		return nil, arm.BadParameter("file", "'%.60s' does not read node-0/attempt-0", b.File)
	}
	var part wire.LogPart
	path := fmt.Sprintf("/jobs/%s/logs/%s?offset=%d&wait=%d", p.Job.UID, b.File, max(b.Offset, 0), min(max(b.Wait, 0), wire.MaxWait))
	if err := e.call(k.ctx, http.MethodGet, path, nil, &part); err != nil {
		return nil, err
	}
	return &arm.Answer{Status: http.StatusOK, Body: part}, nil
}

// listLogs are the logs that the cluster has, and those that the workspace's
// store has: either may have lost what the other one keeps.
func (k *call) listLogs(p *jobPrivate) ([]wire.LogFile, error) {
	kept, err := k.keptLogs(k.ctx, &k.workspace.Value, p)
	if err != nil {
		return nil, err
	}
	files := []wire.LogFile{}
	e, err := k.reach(k.ctx, &k.workspace, p.Cluster)
	if err == nil {
		err = e.call(k.ctx, http.MethodGet, "/jobs/"+p.Job.UID+"/logs", nil, &files)
	}
	if err != nil && len(kept) == 0 {
		return nil, err
	}
	for _, f := range kept {
		i := slices.IndexFunc(files, func(o wire.LogFile) bool { return o.Name == f.Name })
		if i < 0 {
			files = append(files, f)
		} else if files[i].Done {
			files[i].URL = f.URL
		}
	}
	slices.SortFunc(files, func(a, b wire.LogFile) int {
		return cmp.Or(len(a.Name)-len(b.Name), strings.Compare(a.Name, b.Name))
	})
	return files, nil
}

var logFile = regexp.MustCompile(`^node-\d{1,6}/attempt-\d{1,6}$`)
