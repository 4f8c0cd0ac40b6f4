package tunnel

import (
	"io"
	"net/http"
)

// CopyAnswer copies an answer's body to a caller until it ends, and returns how
// much was written. With flush each piece goes on at once, and the header before
// the first: a watch may have nothing to say yet.
func CopyAnswer(w http.ResponseWriter, body io.Reader, flush bool) (written int64, err error) {
	buf := buffers.Get().(*[bufferSize]byte)
	defer buffers.Put(buf)
	var rc *http.ResponseController
	if flush {
		rc = http.NewResponseController(w)
		if err := rc.Flush(); err != nil {
			return 0, err
		}
	}
	for {
		n, readErr := body.Read(buf[:])
		if n > 0 {
			if _, err := w.Write(buf[:n]); err != nil {
				return written, err
			}
			written += int64(n)
			if flush {
				if err := rc.Flush(); err != nil {
					return written, err
				}
			}
		}
		if readErr == io.EOF {
			return written, nil
		}
		if readErr != nil {
			return written, readErr
		}
	}
}
