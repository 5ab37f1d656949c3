package main

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"net"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

func TestWatchdogInterval(t *testing.T) {
	for _, tt := range []struct {
		name, usec, pid string
		want            time.Duration
		wantErr         bool
	}{
		{"none", "", "", 0, false},
		{"ours", "30000000", "7", 30 * time.Second, false},
		{"without a process", "1500", "", 1500 * time.Microsecond, false},
		{"another process's", "30000000", "8", 0, false},
		{"no number", "soon", "7", 0, true},
		{"zero", "0", "7", 0, true},
		{"beyond a day", "99999999999999", "7", 0, true},
	} {
		t.Run(tt.name, func(t *testing.T) {
			env := map[string]string{"WATCHDOG_USEC": tt.usec, "WATCHDOG_PID": tt.pid}
			got, err := watchdogInterval(func(name string) string { return env[name] }, 7)
			if got != tt.want || (err != nil) != tt.wantErr {
				t.Errorf("watchdogInterval = %v, %v", got, err)
			}
		})
	}
}

// TestWatchdogIsAnsweredWhileAlive has the check fail in the middle: only what succeeds is told.
func TestWatchdogIsAnsweredWhileAlive(t *testing.T) {
	path := filepath.Join(t.TempDir(), "notify")
	manager, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: path, Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	defer manager.Close()
	t.Setenv("NOTIFY_SOCKET", path)
	var log strings.Builder
	a := &agent{logger: slog.New(slog.NewTextHandler(io.MultiWriter(&log, t.Output()), nil))}
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	asked := 0
	alive := func(context.Context) error {
		switch asked++; asked {
		case 2:
			return errors.New("stuck")
		case 4:
			cancel()
			return ctx.Err()
		}
		return nil
	}
	a.answerWatchdog(ctx, 3*time.Millisecond, alive)
	if err := manager.SetReadDeadline(time.Now().Add(time.Second)); err != nil {
		t.Fatal(err)
	}
	buf := make([]byte, 64)
	for range 2 {
		n, err := manager.Read(buf)
		if err != nil || string(buf[:n]) != "WATCHDOG=1" {
			t.Fatalf("the service manager was told %q, %v", buf[:n], err)
		}
	}
	if err := manager.SetReadDeadline(time.Now()); err != nil {
		t.Fatal(err)
	}
	if n, err := manager.Read(buf); err == nil {
		t.Errorf("the service manager was told %q beyond what succeeded", buf[:n])
	}
	if !strings.Contains(log.String(), "watchdog not answered") || strings.Count(log.String(), "\n") != 1 {
		t.Errorf("the log: %s", log.String())
	}
}
