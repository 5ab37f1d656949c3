package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"go.uber.org/goleak"

	"github.com/phonehost/phonehost/agent/config"
	"github.com/phonehost/phonehost/scripts/testenv/netlab"
)

// The tests live in a network of their own, as phones' networks are made on this "host".
func TestMain(m *testing.M) {
	leaks := goleak.IgnoreCurrent()
	code := netlab.Run(m)
	if err := goleak.Find(leaks); err != nil && code == 0 {
		fmt.Fprintln(os.Stderr, err)
		code = 1
	}
	os.Exit(code)
}

func TestCommandLine(t *testing.T) {
	dir := t.TempDir()
	good, bad := filepath.Join(dir, "good.toml"), filepath.Join(dir, "bad.toml")
	for path, text := range map[string]string{good: config.Example(), bad: "nonsense = 1\n"} {
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	tests := []struct {
		name    string
		args    []string
		out     string
		wantErr string
	}{
		{"version", []string{"version"}, "phonehostd dev\n", ""},
		{"default configuration", []string{"config", "default"}, config.Example(), ""},
		{"check of a good file", []string{"config", "check", good}, good + " is valid\n", ""},
		{"check of a bad file", []string{"config", "check", bad}, "", `key "nonsense" is not known`},
		{"check of no file", []string{"config", "check", filepath.Join(dir, "none")}, "", "no such file"},
		{"run with a bad file", []string{"--config", bad}, "", `key "nonsense" is not known`},
		{"run with no file", []string{"--config", filepath.Join(dir, "none")}, "", "no such file"},
		{"unknown command", []string{"dance"}, "", "phonehostd --help"},
		{"unknown flag", []string{"--dance"}, "", "phonehostd --help"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			var out bytes.Buffer
			err := execute(t.Context(), tt.args, &out)
			if tt.wantErr == "" && err != nil || tt.wantErr != "" && (err == nil || !strings.Contains(err.Error(), tt.wantErr)) {
				t.Errorf("error %v, want %q", err, tt.wantErr)
			}
			if out.String() != tt.out {
				t.Errorf("printed %q, want %q", out.String(), tt.out)
			}
		})
	}
}

func TestContainerdThatIsMissing(t *testing.T) {
	dir := t.TempDir()
	cfg := config.Default()
	cfg.StateDir, cfg.RunDir, cfg.LogDir = filepath.Join(dir, "state"), filepath.Join(dir, "run"), filepath.Join(dir, "log")
	cfg.Socket.Path = filepath.Join(cfg.RunDir, "s")
	cfg.Containerd.Address = filepath.Join(dir, "nothing.sock")
	cfg.Network.Enabled = false // that of this machine is left alone
	_, err := build(t.Context(), cfg, newLogger(cfg.Log, t.Output()))
	for _, want := range []string{"apt-get install containerd", "systemctl start containerd", cfg.Containerd.Address} {
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("error %v does not say %q", err, want)
		}
	}
	// What had been built is closed again: the state directory is free.
	if _, again := build(t.Context(), cfg, newLogger(cfg.Log, t.Output())); again == nil || strings.Contains(again.Error(), "another agent") {
		t.Errorf("second try: %v", again)
	}
}

func TestNotify(t *testing.T) {
	for name, address := range map[string]string{"path": filepath.Join(t.TempDir(), "n"), "abstract": "@phonehost-test-" + filepath.Base(t.TempDir())} {
		t.Run(name, func(t *testing.T) {
			conn, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: address, Net: "unixgram"})
			if err != nil {
				t.Fatal(err)
			}
			defer conn.Close()
			t.Setenv("NOTIFY_SOCKET", address)
			if err := notify(notifyReady); err != nil {
				t.Fatal(err)
			}
			b := make([]byte, 64)
			n, err := conn.Read(b)
			if err != nil || string(b[:n]) != "READY=1" {
				t.Errorf("the manager was told %q %v", b[:n], err)
			}
		})
	}
	t.Run("nobody", func(t *testing.T) {
		t.Setenv("NOTIFY_SOCKET", "")
		if err := notify(notifyReady); err != nil {
			t.Error(err)
		}
	})
	t.Run("gone", func(t *testing.T) {
		t.Setenv("NOTIFY_SOCKET", filepath.Join(t.TempDir(), "none"))
		if err := notify(notifyReady); err == nil {
			t.Error("a manager that is gone was told")
		}
	})
}

func TestLogger(t *testing.T) {
	var out bytes.Buffer
	logger := newLogger(config.Log{Level: "warn", Format: "json"}, &out)
	logger.InfoContext(context.Background(), "quiet")
	logger.Warn("loud", "phone_id", "p1")
	var line map[string]any
	if err := json.Unmarshal(out.Bytes(), &line); err != nil || line["msg"] != "loud" || line["phone_id"] != "p1" {
		t.Errorf("log %q: %v", out.String(), err)
	}
}

func TestLookUpGroup(t *testing.T) {
	for name, want := range map[string]uint32{"": 0, "root": 0, "1234": 1234} {
		if got, err := lookUpGroup(name); err != nil || got != want {
			t.Errorf("%q is %d %v, want %d", name, got, err, want)
		}
	}
	if _, err := lookUpGroup("no-such-group-here"); err == nil {
		t.Error("a group that does not exist has a number")
	}
}
