package gateway

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"time"

	"github.com/sallyport/sallyport/mlext"
	"github.com/sallyport/sallyport/mlext/wire"
	"github.com/sallyport/sallyport/trust"
)

const maxBody = 1 << 20

// call is one request of a workspace.
type call struct {
	ctx   context.Context
	owner mlext.Owner
	r     *http.Request
}

// Handler is the whole API. Everything but a signed key set, and what pods ask
// with a token of their own (/pods/), needs a workspace's
// token; paths that do not exist are answered no sooner.
func (g *Gateway) Handler() http.Handler {
	mux := http.NewServeMux()
	on := func(pattern string, do func(*call) (any, error)) {
		mux.HandleFunc(pattern, func(w http.ResponseWriter, r *http.Request) {
			owner, err := g.authenticate(r.Context(), r.Header)
			var body any
			if err == nil {
				body, err = do(&call{r.Context(), owner, r})
			}
			g.answer(w, r, owner, body, err)
		})
	}
	at := wire.Prefix
	on("GET "+at+"/health", func(c *call) (any, error) { return g.health(c.ctx), nil })
	on("PUT "+at+"/computes/{uid}", func(c *call) (any, error) {
		body, err := decode[wire.Compute](c.r)
		if err != nil {
			return nil, err
		}
		body.UID = c.r.PathValue("uid")
		return nil, g.putCompute(c.ctx, c.owner, *body)
	})
	on("DELETE "+at+"/computes/{uid}", func(c *call) (any, error) {
		return nil, g.removeCompute(c.ctx, c.owner, c.r.PathValue("uid"))
	})
	on("PUT "+at+"/computes/{uid}/registries", func(c *call) (any, error) {
		all, err := decode[[]wire.Registry](c.r)
		if err != nil {
			return nil, err
		}
		return nil, g.putRegistries(c.ctx, c.owner, c.r.PathValue("uid"), *all)
	})
	on("PUT "+at+"/jobs/{uid}", func(c *call) (any, error) {
		body, err := decode[wire.Job](c.r)
		if err != nil {
			return nil, err
		}
		body.UID = c.r.PathValue("uid")
		return nil, g.putJob(c.ctx, c.owner, *body)
	})
	on("GET "+at+"/jobs/{uid}", func(c *call) (any, error) {
		return g.status(c.ctx, c.owner, c.r.PathValue("uid"), c.r.FormValue("after"), wait(c.r))
	})
	on("DELETE "+at+"/jobs/{uid}", func(c *call) (any, error) { return nil, g.removeJob(c.ctx, c.owner, c.r.PathValue("uid")) })
	on("POST "+at+"/jobs/{uid}/cancel", func(c *call) (any, error) {
		return nil, g.cancelJob(c.ctx, c.owner, c.r.PathValue("uid"))
	})
	on("GET "+at+"/jobs/{uid}/logs", func(c *call) (any, error) {
		if _, err := g.job(c.ctx, c.owner, c.r.PathValue("uid")); err != nil {
			return nil, err
		}
		return g.logs.list(c.r.PathValue("uid"))
	})
	on("GET "+at+"/jobs/{uid}/logs/{node}/{attempt}", func(c *call) (any, error) {
		if _, err := g.job(c.ctx, c.owner, c.r.PathValue("uid")); err != nil {
			return nil, err
		}
		offset, err := strconv.ParseInt(c.r.FormValue("offset"), 10, 64)
		if err != nil || offset < 0 {
			offset = 0
		}
		return g.logs.read(c.ctx, c.r.PathValue("uid"), c.r.PathValue("node")+"/"+c.r.PathValue("attempt"), offset, wait(c.r))
	})
	g.routeServing(on)
	g.routeAsks(mux, on)
	mux.HandleFunc("PUT "+at+"/keys", func(w http.ResponseWriter, r *http.Request) {
		signed, err := io.ReadAll(io.LimitReader(r.Body, maxBody))
		if err == nil {
			err = g.keys.replace(r.Context(), string(signed))
		}
		g.answer(w, r, mlext.Owner{}, nil, err)
	})
	on("/", func(c *call) (any, error) {
		return nil, trust.Errorf(trust.NotFound, "there is no %.100s here", c.r.URL.Path)
	})
	return mux
}

func wait(r *http.Request) time.Duration {
	n, err := strconv.Atoi(r.FormValue("wait"))
	if err != nil {
		return 0
	}
	return time.Duration(min(max(n, 0), wire.MaxWait)) * time.Second
}

func decode[T any](r *http.Request) (*T, error) { return decodeUpTo[T](r, maxBody) }

func decodeUpTo[T any](r *http.Request, most int64) (*T, error) {
	v := new(T)
	d := json.NewDecoder(io.LimitReader(r.Body, most))
	d.DisallowUnknownFields() // what is not understood here must not be taken as done
	if err := d.Decode(v); err != nil {
		return nil, trust.Errorf(trust.Invalid, "the body cannot be read as %T", *v).Because(err)
	}
	return v, nil
}

// answer is the one place where errors become answers.
func (g *Gateway) answer(w http.ResponseWriter, r *http.Request, owner mlext.Owner, body any, err error) {
	status := http.StatusOK
	if err != nil {
		var e *trust.Error
		if !errors.As(err, &e) {
			e = trust.Errorf(trust.Unavailable, "the extension cannot do this now").Because(err)
		}
		if status = statusOf[e.Kind]; status == 0 {
			status = http.StatusInternalServerError
		}
		out := wire.Error{Code: e.Code, Message: e.Message}
		if out.Code == "" {
			out.Code = map[int]string{400: wire.Invalid, 401: wire.Unauthenticated, 403: wire.Forbidden, 503: wire.Unavailable}[status]
		}
		if e.Kind == trust.Unauthenticated {
			out.Code = wire.Unauthenticated // finer ones are the authority's
		}
		body = out
	}
	g.Log.InfoContext(r.Context(), "request", "method", r.Method, "path", r.URL.Path, "status", status, "workspace", owner.Workspace, "error", fmt.Sprint(err))
	if body == nil {
		body = struct{}{}
	}
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("Cache-Control", "no-store")
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(body) // the caller is gone: nothing to do
}
