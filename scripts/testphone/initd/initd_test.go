package initd

import (
	"fmt"
	"io"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/containerd/errdefs"
	"go.uber.org/goleak"
	"golang.org/x/sys/unix"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func TestParsePowerctl(t *testing.T) {
	for value, want := range map[string]powerRequest{
		"shutdown":              {powerOff, ""},
		"shutdown,thermal,long": {powerOff, "thermal,long"},
		"reboot":                {restart, ""},
		"reboot,recovery":       {restart, "recovery"},
	} {
		got, err := parsePowerctl(value)
		if got != want || err != nil {
			t.Errorf("%s: %+v, %v", value, got, err)
		}
		if got.String() != value {
			t.Errorf("%s is written %s", value, got)
		}
	}
	for _, value := range []string{"", "off", "Shutdown", "reboot now"} {
		if got, err := parsePowerctl(value); !errdefs.IsInvalidArgument(err) {
			t.Errorf("%q: %+v, %v", value, got, err)
		}
	}
}

func TestRunRefusesOtherPids(t *testing.T) {
	if err := Run(t.Context(), Config{}); !errdefs.IsFailedPrecondition(err) {
		t.Errorf("Run = %v", err)
	}
}

func TestDescribe(t *testing.T) {
	for status, want := range map[unix.WaitStatus]string{0: "exited with 0", 7 << 8: "exited with 7", 9: "was ended by SIGKILL"} {
		if got := describe(status); got != want {
			t.Errorf("%d: %s, want %s", status, got, want)
		}
	}
}

// TestOutputNeverWaits prints more than the queue holds to a reader that does not read.
func TestOutputNeverWaits(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r, w := io.Pipe()
		o := newOutput(w)
		for i := range 2000 {
			o.printf("line %d", i)
		}
		o.drain(time.Second) // gives up
		done := make(chan string)
		go func() {
			text, _ := io.ReadAll(r)
			done <- string(text)
		}()
		synctest.Wait() // what was queued is read
		o.printf("after")
		o.drain(time.Second)
		w.Close()
		close(o.lines)
		text := <-done
		lines, dropped := strings.Count(text, "init: line "), 0
		for line := range strings.Lines(text) {
			var n int
			if _, err := fmt.Sscanf(line, "init: %d lines dropped, nobody reads them", &n); err == nil {
				dropped += n
			}
		}
		if !strings.HasPrefix(text, "init: line 0\ninit: line 1\n") || !strings.HasSuffix(text, "dropped, nobody reads them\ninit: after\n") {
			t.Errorf("printed %.80q ... %q", text, text[max(0, len(text)-80):])
		}
		if dropped == 0 || lines+dropped != 2000 {
			t.Errorf("%d lines were printed and %d dropped, of 2000", lines, dropped)
		}
	})
}
