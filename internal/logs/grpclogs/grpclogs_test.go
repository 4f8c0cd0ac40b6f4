package grpclogs

import (
	"bytes"
	"log/slog"
	"strings"
	"testing"

	"google.golang.org/grpc/grpclog"
)

func TestGRPCLogsHereOneLevelDown(t *testing.T) {
	var out bytes.Buffer
	Install(slog.New(slog.NewJSONHandler(&out, nil)))
	grpclog.Info("nothing of interest")
	grpclog.Warningf("connection %d broke", 7)
	grpclog.Errorln("no server", "left")
	got := out.String()
	if strings.Count(got, "\n") != 1 || !strings.Contains(got, `"level":"WARN"`) || !strings.Contains(got, `"line":"no server left"`) {
		t.Errorf("got %s", got)
	}
}
