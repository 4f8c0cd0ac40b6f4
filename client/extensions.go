package client

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"time"

	"github.com/sallyport/sallyport/mandate"
	"github.com/sallyport/sallyport/trust"
)

// wantedTimeout bounds the installer's question, which the server holds open for
// 20 s while there is nothing new.
const wantedTimeout = 35 * time.Second

// Extensions asks what extensions shall be in the cluster (what
// mandate.OpenExtensions reads). It returns when that is not what the installer
// holds already, or with nil after a while.
func (a *Agent) Extensions(ctx context.Context, held mandate.Floor) ([]byte, error) {
	ctx, cancel := context.WithTimeoutCause(ctx, wantedTimeout, trust.Errorf(trust.Timeout, "%s did not answer within %s", a.base, wantedTimeout))
	defer cancel()
	client, _, _, err := a.current(ctx)
	if err != nil {
		return nil, err
	}
	query := url.Values{"epoch": {strconv.FormatInt(held.Epoch, 10)}, "revision": {strconv.FormatInt(held.Revision, 10)}, "instance": {a.c.Instance}}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, a.base+WantedPath+"?"+query.Encode(), nil)
	if err != nil {
		return nil, fmt.Errorf("ask for extensions: %w", err)
	}
	req.Header.Set("User-Agent", "sallyport-agent/"+a.c.Version)
	res, err := client.Do(req)
	if err != nil {
		return nil, unreachable(ctx, a.base, err)
	}
	defer res.Body.Close()
	body, err := io.ReadAll(io.LimitReader(res.Body, maxStateLine))
	switch {
	case err != nil:
		return nil, unreachable(ctx, a.base, err)
	case res.StatusCode == http.StatusNoContent:
		return nil, nil
	case res.StatusCode != http.StatusOK:
		return nil, failure(res, body)
	}
	var answer struct{ Extensions []byte }
	if err := json.Unmarshal(body, &answer); err != nil {
		return nil, trust.Errorf(trust.Internal, "the answer of %s%s cannot be read", a.base, WantedPath).Because(err)
	}
	return answer.Extensions, nil
}

// Installed says what became of extensions.
func (a *Agent) Installed(ctx context.Context, r mandate.ExtensionReport) error {
	client, _, _, err := a.current(ctx)
	if err != nil {
		return err
	}
	r.Instance, r.Version = a.c.Instance, a.c.Version
	return a.post(ctx, client, InstalledPath, r, nil)
}
