package guest

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"strings"
	"sync"
	"time"

	"github.com/phonehost/phonehost/scripts/vm/control"
	"golang.org/x/sys/unix"
)

// Serve carries out the host's requests, one session after the other, until ctx ends.
func Serve(ctx context.Context, log *slog.Logger) error {
	line, err := readCommandLine()
	if err != nil {
		return err
	}
	h := &handler{log: log, kind: line.kind}
	defer h.leftovers.Wait()
	guest, err := describe(line)
	if err != nil {
		return err
	}
	for ctx.Err() == nil {
		port, err := openPort(ctx, control.Port)
		if err != nil {
			return err
		}
		err = control.Serve(ctx, port, guest, h, log)
		log.Debug("session ended", "error", err)
	}
	return nil
}

// describe returns what the host is told when a session begins.
func describe(line commandLine) (control.Guest, error) {
	boot, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	if err != nil {
		return control.Guest{}, fmt.Errorf("read the boot's name: %w", err)
	}
	var uts unix.Utsname
	if err := unix.Uname(&uts); err != nil {
		return control.Guest{}, fmt.Errorf("read the kernel's release: %w", err)
	}
	g := control.Guest{BootID: strings.TrimSpace(string(boot)), Release: unix.ByteSliceToString(uts.Release[:]), Kind: line.kind}
	problems, err := os.ReadFile(problemsFile)
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return control.Guest{}, fmt.Errorf("read the problems of this boot: %w", err)
	}
	g.Problems = strings.FieldsFunc(string(problems), func(r rune) bool { return r == '\n' })
	return g, nil
}

// handler carries out requests.
type handler struct {
	log       *slog.Logger
	kind      string
	unpacking sync.Mutex
	leftovers sync.WaitGroup // goroutines that read what children of ended programs still write
}

// Clock implements control.Handler.
func (h *handler) Clock(_ context.Context, req control.Request) error {
	now := unix.NsecToTimespec(req.Time)
	if err := unix.ClockSettime(unix.CLOCK_REALTIME, &now); err != nil {
		return fmt.Errorf("set the clock to %v: %w", time.Unix(0, req.Time), err)
	}
	if len(req.Seed) == 0 {
		return nil
	}
	if err := reseed(req.Seed); err != nil {
		return fmt.Errorf("seed the random numbers: %w", err)
	}
	return nil
}

// Unpack implements control.Handler.
func (h *handler) Unpack(ctx context.Context) error {
	h.unpacking.Lock()
	defer h.unpacking.Unlock()
	return unpackPayload(ctx)
}
