package netenv

import (
	"bytes"
	_ "embed"
	"fmt"
	"html/template"
	"io"
)

//go:embed report.html
var reportPage string

// writeHTML writes one self-contained page: picture, filters, print layout, no
// outside request.
func (r *Report) writeHTML(w io.Writer) error {
	t, err := template.New("report").Funcs(template.FuncMap{
		"path": func(f Finding) string { return f.Path() }, "where": func(f Finding) string { return f.where() },
		"about": func(f Finding) string { return subject(&f) },
	}).Parse(reportPage)
	if err != nil {
		return fmt.Errorf("parse the page: %w", err)
	}
	var page bytes.Buffer
	if err := t.Execute(&page, struct {
		*Report
		Picture                    template.HTML
		Passed, Failed, Unanswered int
	}{r, template.HTML(r.svg()), r.Count(Pass), r.Count(Fail), r.Count(Undecided)}); err != nil { // svg escapes what it takes from the input
		return fmt.Errorf("render the page: %w", err)
	}
	_, err = w.Write(page.Bytes())
	return err
}
