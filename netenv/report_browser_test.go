package netenv

import (
	"bytes"
	"context"
	"encoding/json"
	"html"
	"image/png"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"
)

// browser finds a headless Chromium. Without one the test is skipped, unless
// SALLYPORT_TEST_CHROMIUM=require.
func browser(t *testing.T) string {
	t.Helper()
	for _, name := range []string{"chromium-headless-shell", "chromium", "chromium-browser", "google-chrome"} {
		if path, err := exec.LookPath(name); err == nil {
			return path
		}
	}
	if os.Getenv("SALLYPORT_TEST_CHROMIUM") == "require" {
		t.Fatal("no Chromium: install the Debian package chromium-headless-shell")
	}
	t.Skip("no Chromium here: install the Debian package chromium-headless-shell")
	return ""
}

func chromium(t *testing.T, args ...string) []byte {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	var out, problem bytes.Buffer
	c := exec.CommandContext(ctx, browser(t), append([]string{"--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars",
		"--no-first-run", "--disable-background-networking", "--disable-component-update", "--disable-sync", "--user-data-dir=" + t.TempDir()}, args...)...)
	c.Stdout, c.Stderr = &out, &problem
	if err := c.Run(); err != nil {
		t.Fatalf("%v: %s", err, &problem)
	}
	return out.Bytes()
}

// tryout is what a reader does with the page, and what they see: written into
// the page for the test to read.
const tryout = `<script>
const shown=()=>[...document.querySelectorAll("#list details")].filter(d=>d.offsetParent!==null),
set=(id,v)=>{const e=document.getElementById(id);e.value=v;e.dispatchEvent(new Event("input",{bubbles:true}))},
r={all:shown().length};
set("verdict","fail");r.fail=shown().map(d=>d.dataset.verdict);set("severity","warning");r.failWarning=shown().length;
set("verdict","");set("severity","");set("words","vn-05");r.words=shown().map(d=>d.querySelector("b").textContent);set("words","");r.again=shown().length;
r.openBefore=document.querySelectorAll("details[open]").length;dispatchEvent(new Event("beforeprint"));r.openInPrint=document.querySelectorAll("details[open]").length;
r.printHides=[...document.styleSheets].flatMap(s=>[...s.cssRules]).some(c=>c.media&&c.media.mediaText==="print"&&[...c.cssRules].some(x=>x.selectorText&&x.selectorText.includes("form")&&x.style.display==="none"));
r.wide=document.documentElement.scrollWidth>innerWidth;
const svg=document.querySelector("figure svg"),box=svg.getBoundingClientRect();r.svg=[box.width,box.height];
r.outside=[];for(const g of svg.querySelectorAll("g")){const b=g.querySelector("rect").getBBox();for(const x of g.querySelectorAll("text")){const t=x.getBBox();if(t.x<b.x-1||t.x+t.width>b.x+b.width+1||t.y<b.y-1)r.outside.push(x.textContent)}}
r.texts=svg.querySelectorAll("text").length;r.ways=svg.querySelectorAll("path.way").length;r.bad=svg.querySelectorAll("path.bad").length;
const boxes=[...svg.querySelectorAll("g.endpoint rect,g.cluster rect,g.target rect")].map(e=>e.getBBox());r.overlap=0;
for(let i=0;i<boxes.length;i++)for(let j=i+1;j<boxes.length;j++){const a=boxes[i],b=boxes[j];if(a.x<b.x+b.width&&b.x<a.x+a.width&&a.y<b.y+b.height&&b.y<a.y+a.height)r.overlap++}
const p=document.createElement("pre");p.id="tryout";p.textContent=JSON.stringify(r);document.body.append(p);
</script>`

type seen struct {
	All, Again, FailWarning, OpenBefore, OpenInPrint int
	Fail, Words, Outside                             []string
	PrintHides, Wide                                 bool
	Svg                                              [2]float64
	Texts, Ways, Bad, Overlap                        int
}

func (r *Report) page(t *testing.T) (file string, found seen) {
	t.Helper()
	var page bytes.Buffer
	if err := r.Write(&page, "html"); err != nil {
		t.Fatal(err)
	}
	file = filepath.Join(t.TempDir(), "report.html")
	if err := os.WriteFile(file, page.Bytes(), 0o600); err != nil {
		t.Fatal(err)
	}
	tried := filepath.Join(t.TempDir(), "tried.html")
	if err := os.WriteFile(tried, bytes.Replace(page.Bytes(), []byte("</body>"), []byte(tryout+"</body>"), 1), 0o600); err != nil {
		t.Fatal(err)
	}
	dom := chromium(t, "--window-size=1200,1600", "--dump-dom", "file://"+tried)
	m := regexp.MustCompile(`(?s)<pre id="tryout">(.*?)</pre>`).FindSubmatch(dom)
	if m == nil {
		t.Fatalf("the page's script did not run: %.2000s", dom)
	}
	if err := json.Unmarshal([]byte(html.UnescapeString(string(m[1]))), &found); err != nil {
		t.Fatal(err)
	}
	return file, found
}

// large is thirty and more resources, with failures of several kinds.
func large(t *testing.T) *Report {
	s := hubSite()
	for _, f := range faults {
		if f.name == "a peering goes one way" || f.name == "the vault's endpoint has a wrong group" || f.name == "the nodes' subnet is small" {
			f.do(s)
		}
	}
	return Check(s.collected(t).graph(), Options{Profile: Private, Now: testNow})
}

// small is one resource.
func small(t *testing.T) *Report {
	w := load(t, "private")
	for file := range w.files {
		if file != "clusters.json" {
			delete(w.files, file)
		}
	}
	return Check(w.graph(), Options{Profile: Private, Now: testNow})
}

func TestThePageInABrowser(t *testing.T) {
	browser(t)
	for _, tc := range []struct {
		name   string
		report *Report
		ways   int
	}{{"one resource", small(t), 0}, {"thirty resources", large(t), 8}} {
		t.Run(tc.name, func(t *testing.T) {
			file, got := tc.report.page(t)
			if got.All != len(tc.report.Findings) || got.Again != got.All {
				t.Errorf("%d findings, %d shown, %d after the filters were emptied", len(tc.report.Findings), got.All, got.Again)
			}
			fails, warnings := 0, 0
			for _, f := range tc.report.Findings {
				if f.Verdict == Fail {
					fails++
					if f.Severity == Warning {
						warnings++
					}
				}
			}
			if len(got.Fail) != fails || got.FailWarning != warnings {
				t.Errorf("the filters show %v and %d, want %d failures, %d of them warnings", got.Fail, got.FailWarning, fails, warnings)
			}
			for _, code := range got.Words {
				if !strings.HasPrefix(code, "VN-05") && tc.ways == 0 {
					t.Errorf("searching for vn-05 shows %s", code)
				}
			}
			if len(got.Words) == 0 {
				t.Error("searching for vn-05 shows nothing")
			}
			if !got.PrintHides || got.OpenInPrint < got.OpenBefore || got.OpenInPrint == 0 {
				t.Errorf("print: filters hidden %v, %d open, %d open in print", got.PrintHides, got.OpenBefore, got.OpenInPrint)
			}
			if got.Wide || len(got.Outside) > 0 || got.Overlap > 0 || got.Svg[0] < 700 || got.Svg[1] < 80 || got.Texts == 0 || got.Ways < tc.ways {
				t.Errorf("the picture: %+v", got)
			}
			if (got.Bad > 0) != (tc.ways > 0) {
				t.Errorf("%d failing edges", got.Bad)
			}
			seeScreenshot(t, file, tc.ways > 0)
			pdf := filepath.Join(t.TempDir(), "report.pdf")
			chromium(t, "--no-pdf-header-footer", "--print-to-pdf="+pdf, "file://"+file)
			data, err := os.ReadFile(pdf)
			if err != nil {
				t.Fatal(err)
			}
			if pages := bytes.Count(data, []byte("/Type /Page\n")) + bytes.Count(data, []byte("/Type /Page/")); pages < 2 {
				t.Errorf("%d bytes of print, %d pages", len(data), pages)
			}
		})
	}
}

// seeScreenshot looks at the pixels: the page is painted, and red where it
// fails. With NETENV_SCREENSHOTS=folder it is kept for people.
func seeScreenshot(t *testing.T, file string, red bool) {
	t.Helper()
	shot := filepath.Join(t.TempDir(), "report.png")
	chromium(t, "--window-size=1200,1600", "--screenshot="+shot, "file://"+file)
	data, err := os.ReadFile(shot)
	if err != nil {
		t.Fatal(err)
	}
	picture, err := png.Decode(bytes.NewReader(data))
	if err != nil {
		t.Fatal(err)
	}
	if b := picture.Bounds(); b.Dx() != 1200 || b.Dy() != 1600 {
		t.Errorf("the screenshot has %v", b)
	}
	reds, dark := 0, 0
	for y := range picture.Bounds().Dy() {
		for x := range picture.Bounds().Dx() {
			r, g, b, _ := picture.At(x, y).RGBA()
			if r>>8 > 180 && g>>8 < 90 && b>>8 < 90 {
				reds++
			}
			if r>>8 < 60 && g>>8 < 70 && b>>8 < 90 {
				dark++
			}
		}
	}
	if dark < 1000 || red && reds < 200 {
		t.Errorf("%d dark and %d red pixels", dark, reds)
	}
	if dir := os.Getenv("NETENV_SCREENSHOTS"); dir != "" {
		if err := os.WriteFile(filepath.Join(dir, strings.ReplaceAll(filepath.Base(t.Name()), "/", "-")+".png"), data, 0o600); err != nil {
			t.Fatal(err)
		}
	}
}
