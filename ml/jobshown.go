package ml

import (
	"strconv"

	"github.com/sallyport/sallyport/arm"
	"github.com/sallyport/sallyport/store"
)

// showJob puts what became of the job where Azure's clients look: status, and
// the bag of strings "properties".
func showJob(r *store.Provided, set map[string]any) error {
	p, err := readJob(r)
	if err != nil {
		return err
	}
	set["status"], set["jobType"] = r.State, "Command"
	more := map[string]string{}
	put := func(name, value string) {
		if value != "" {
			more[name] = value
		}
	}
	put("StartTimeUtc", arm.Time(p.Status.Started))
	put("EndTimeUtc", arm.Time(p.Status.Ended))
	put("statusCode", p.Status.Code)
	put("statusReason", p.Status.Reason)
	put("statusCommand", p.Status.Command)
	if r.Problem != nil {
		more["statusCode"], more["statusReason"] = r.Problem.Code, r.Problem.Message
		delete(more, "statusCommand")
		put("statusCommand", hint(r.Problem))
	}
	for name, value := range p.Status.Metrics {
		put("metrics."+name, strconv.FormatFloat(value, 'g', -1, 64))
	}
	for _, n := range p.Status.Nodes {
		at := "node-" + strconv.Itoa(n.Index)
		put(at+".host", n.Host)
		put(at+".attempt", strconv.Itoa(n.Attempt))
		if n.ExitCode != nil {
			put(at+".exitCode", strconv.Itoa(int(*n.ExitCode)))
		}
		put(at+".reason", n.Reason)
	}
	set["properties"] = more
	return nil
}
