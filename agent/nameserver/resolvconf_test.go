package nameserver_test

import (
	"context"
	"os"
	"path/filepath"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/phonehost/phonehost/agent/nameserver"
)

// TestWatchResolvConf replaces the link, as the installation of another resolver does.
func TestWatchResolvConf(t *testing.T) {
	leaks := goleak.IgnoreCurrent()
	dir := t.TempDir()
	path := func(name string) string { return filepath.Join(dir, name) }
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	must(os.Mkdir(path("etc"), 0o755))
	for _, name := range []string{"stub", "resolved"} {
		must(os.WriteFile(path(name), []byte("nameserver 127.0.0.53\n"), 0o644))
	}
	conf := path("etc/resolv.conf")
	must(os.WriteFile(conf, []byte("nameserver 192.0.2.1\n"), 0o644))
	ctx, cancel := context.WithCancel(t.Context())
	leads, err := nameserver.WatchResolvConf(ctx, conf)
	must(err)
	next := func(want string) {
		t.Helper()
		select {
		case got := <-leads:
			if got != want {
				t.Errorf("it leads to %q, want %q", got, want)
			}
		case <-time.After(10 * time.Second):
			t.Errorf("nothing is told of %q", want)
		}
	}
	link := func(to string) {
		t.Helper()
		must(os.Symlink(to, conf+".new"))
		must(os.Rename(conf+".new", conf))
	}
	next(conf)
	must(os.WriteFile(conf+".new", []byte("nameserver 192.0.2.2\n"), 0o644)) // another file in its place is no other place
	must(os.Rename(conf+".new", conf))
	link(path("stub"))
	next(path("stub"))
	link("../resolved")
	next(path("resolved"))
	must(os.Remove(conf))
	next("")
	link(path("stub"))
	next(path("stub"))
	cancel()
	for range leads { // until it is closed
	}
	goleak.VerifyNone(t, leaks)
}
