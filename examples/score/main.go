// Command score is a model server: it loads the linear model that examples/train
// writes and answers POST /score with {"predictions":[…],"version":"…"} for
// {"data":[[…],…]}, one row of numbers each.
//
// It owns nothing of the product: it is a program that a deployment may run.
package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"log"
	"net/http"
	"os"
	"os/signal"
	"path/filepath"
	"syscall"
	"time"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	listen := flag.String("listen", ":5001", "`address` to serve on")
	file := flag.String("model", "", "model `file`. Default: model.json in $AZUREML_MODEL_DIR, or a model that predicts 0")
	flag.Parse()
	if err := run(ctx, *listen, *file); err != nil {
		log.Fatal(err)
	}
}

func run(ctx context.Context, listen, file string) error {
	if dir := os.Getenv("AZUREML_MODEL_DIR"); file == "" && dir != "" {
		file = filepath.Join(dir, "model.json")
	}
	m := &model{Version: os.Getenv("VERSION")}
	if file != "" {
		var err error
		if m, err = load(file); err != nil {
			return err
		}
	}
	server := &http.Server{Addr: listen, Handler: routes(m, delay(os.Getenv("DELAY"))), ReadHeaderTimeout: 10 * time.Second}
	ended := make(chan error, 1)
	go func() { ended <- server.ListenAndServe() }()
	log.Printf("serving version %q with %d weights on %s", m.Version, len(m.Weights), listen)
	select {
	case err := <-ended:
		return err
	case <-ctx.Done():
	}
	last, cancel := context.WithTimeout(context.WithoutCancel(ctx), 10*time.Second)
	defer cancel()
	err := server.Shutdown(last) // requests that have begun end
	if served := <-ended; !errors.Is(served, http.ErrServerClosed) {
		err = errors.Join(err, served)
	}
	return err
}

// model predicts bias + Σ weights[i]·row[i].
type model struct {
	Weights []float64 `json:"weights"`
	Bias    float64   `json:"bias"`
	Version string    `json:"version"`
}

func load(file string) (*model, error) {
	raw, err := os.ReadFile(file)
	if err != nil {
		return nil, fmt.Errorf("load model: %w", err)
	}
	m := new(model)
	if err := json.Unmarshal(raw, m); err != nil {
		return nil, fmt.Errorf("load model %s: %w", file, err)
	}
	return m, nil
}

func (m *model) predict(row []float64) (float64, error) {
	if len(m.Weights) > 0 && len(row) != len(m.Weights) {
		return 0, fmt.Errorf("a row has %d numbers, the model %d weights", len(row), len(m.Weights))
	}
	sum := m.Bias
	for i, w := range m.Weights {
		sum += w * row[i]
	}
	return sum, nil
}

const maxBody = 1 << 20

// routes serves the model; each answer takes at least so long.
func routes(m *model, wait time.Duration) http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("POST /score", func(w http.ResponseWriter, r *http.Request) {
		var in struct {
			Data [][]float64 `json:"data"`
		}
		if err := json.NewDecoder(http.MaxBytesReader(w, r.Body, maxBody)).Decode(&in); err != nil {
			http.Error(w, `{"error":"send {\"data\":[[…]]}"}`, http.StatusBadRequest)
			return
		}
		out := struct {
			Predictions []float64 `json:"predictions"`
			Version     string    `json:"version"`
		}{[]float64{}, m.Version}
		for _, row := range in.Data {
			y, err := m.predict(row)
			if err != nil {
				http.Error(w, fmt.Sprintf("{%q:%q}", "error", err), http.StatusBadRequest)
				return
			}
			out.Predictions = append(out.Predictions, y)
		}
		timer := time.NewTimer(wait)
		defer timer.Stop()
		select {
		case <-timer.C:
		case <-r.Context().Done():
			return
		}
		w.Header().Set("Content-Type", "application/json")
		_ = json.NewEncoder(w).Encode(out) // the caller is gone: nothing to do
	})
	for _, path := range []string{"GET /healthz", "GET /ready"} {
		mux.HandleFunc(path, func(w http.ResponseWriter, _ *http.Request) { fmt.Fprintln(w, "ok") })
	}
	return mux
}

// delay is how long an answer takes, to be seen under load; "" is none.
func delay(text string) time.Duration {
	d, err := time.ParseDuration(text)
	if err != nil {
		return 0
	}
	return d
}
