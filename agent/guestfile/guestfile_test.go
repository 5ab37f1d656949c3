package guestfile_test

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/phonehost/phonehost/agent/fault"
	"github.com/phonehost/phonehost/agent/guestfile"
	"github.com/phonehost/phonehost/agent/phone"
	"github.com/phonehost/phonehost/runtime/container"
	"github.com/phonehost/phonehost/scripts/testenv"
)

// local is a guest that is this host: its scripts are run by the shell and the programs of this machine. A real guest is in scripts/e2e.
type local struct{ dir string }

func (l local) Exec(ctx context.Context, _ string, o container.ExecOptions) (uint32, error) {
	if o.Args[0] != "/system/bin/sh" {
		return 0, fmt.Errorf("ran %q, which is not the profile's shell", o.Args[0])
	}
	cmd := exec.CommandContext(ctx, "sh", o.Args[1:]...)
	cmd.Dir, cmd.Stdin, cmd.Stdout, cmd.Stderr = l.dir, o.Stdin, o.Stdout, o.Stderr
	err := cmd.Run()
	if cmd.ProcessState == nil {
		return 0, err
	}
	return uint32(cmd.ProcessState.ExitCode()), nil // what reading or writing said is the caller's own
}

// phones knows p1, which runs, and off.
type phones struct{}

func (phones) Get(id string) (phone.Snapshot, error) {
	snap := phone.Snapshot{Status: phone.Running, InitPID: 1}
	snap.Record.Spec.ID, snap.Record.Spec.Profile = id, "testphone"
	if id == "off" {
		snap.Status = phone.PoweredOff
	}
	return snap, nil
}

func (phones) Watch([]string) *phone.Watcher { panic("a guest of this test does not end") }

func copier(t *testing.T) (*guestfile.Copier, string) {
	testenv.Root(t) // for other owners
	dir := t.TempDir()
	return &guestfile.Copier{Guests: local{dir}, Phones: phones{}}, dir
}

// names are what is in a directory.
func names(t *testing.T, dir string) []string {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	var all []string
	for _, e := range entries {
		all = append(all, e.Name())
	}
	return all
}

func TestPush(t *testing.T) {
	c, dir := copier(t)
	big := bytes.Repeat([]byte("0123456789abcdef"), 20000)
	for name, data := range map[string][]byte{"empty": nil, "one byte": {'x'}, "big": big, "it's a 'name' with $(false) \"quotes\" \\ and é": []byte("odd")} {
		t.Run(name, func(t *testing.T) {
			path := filepath.Join(dir, name)
			for range 2 { // made, then replaced
				sum := sha256.Sum256(data)
				got, err := c.Push(t.Context(), "p1", guestfile.File{Path: path, Size: uint64(len(data)), SHA256: sum[:], Mode: 0o640, UID: 1000, GID: 1001}, bytes.NewReader(data))
				if err != nil || !bytes.Equal(got, sum[:]) {
					t.Fatalf("digest %x, %v, want %x", got, err, sum)
				}
			}
			text, err := os.ReadFile(path)
			if err != nil || !bytes.Equal(text, data) {
				t.Errorf("%d bytes were written, want %d (%v)", len(text), len(data), err)
			}
			info, err := os.Stat(path)
			if err != nil || info.Mode() != 0o640 {
				t.Errorf("mode %v, %v", info.Mode(), err)
			}
		})
	}
	if got := names(t, dir); len(got) != 4 {
		t.Errorf("left behind: %q", got)
	}
}

// TestPushLeavesNothing has what comes be wrong in every way; the file that was there stays.
func TestPushLeavesNothing(t *testing.T) {
	c, dir := copier(t)
	path := filepath.Join(dir, "file")
	if err := os.WriteFile(path, []byte("before"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Mkdir(filepath.Join(dir, "directory"), 0o700); err != nil {
		t.Fatal(err)
	}
	broken := errors.New("the caller left")
	good := guestfile.File{Path: path, Size: 5}
	with := func(edit func(*guestfile.File)) guestfile.File { f := good; edit(&f); return f }
	wrong := sha256.Sum256([]byte("other"))
	for name, tt := range map[string]struct {
		id     string
		file   guestfile.File
		data   io.Reader
		reason string
		err    error
	}{
		"short":             {file: good, data: strings.NewReader("1234"), reason: fault.InvalidField},
		"nothing":           {file: good, data: strings.NewReader(""), reason: fault.InvalidField},
		"long":              {file: good, data: strings.NewReader("123456"), reason: fault.InvalidField},
		"more than nothing": {file: with(func(f *guestfile.File) { f.Size = 0 }), data: strings.NewReader("1"), reason: fault.InvalidField},
		"broken off":        {file: good, data: io.MultiReader(strings.NewReader("123"), errReader{broken}), err: broken},
		"broken at its end": {file: good, data: io.MultiReader(strings.NewReader("12345"), errReader{broken}), err: broken},
		"other bytes":       {file: with(func(f *guestfile.File) { f.SHA256 = wrong[:] }), data: strings.NewReader("12345"), reason: guestfile.DigestMismatch},
		"other no bytes":    {file: with(func(f *guestfile.File) { f.SHA256, f.Size = wrong[:], 0 }), data: strings.NewReader(""), reason: guestfile.DigestMismatch},
		"relative":          {file: with(func(f *guestfile.File) { f.Path = "file" }), reason: fault.InvalidField},
		"zero byte":         {file: with(func(f *guestfile.File) { f.Path = "/a\x00b" }), reason: fault.InvalidField},
		"directory's name":  {file: with(func(f *guestfile.File) { f.Path += "/" }), reason: fault.InvalidField},
		"long path":         {file: with(func(f *guestfile.File) { f.Path = "/" + strings.Repeat("a", 4096) }), reason: fault.InvalidField},
		"huge":              {file: with(func(f *guestfile.File) { f.Size = guestfile.MaxBytes + 1 }), reason: fault.InvalidField},
		"half a digest":     {file: with(func(f *guestfile.File) { f.SHA256 = []byte{1} }), reason: fault.InvalidField},
		"set-uid":           {file: with(func(f *guestfile.File) { f.Mode = 0o4755 }), reason: fault.InvalidField},
		"a directory":       {file: with(func(f *guestfile.File) { f.Path = filepath.Join(dir, "directory") }), data: strings.NewReader("12345"), reason: guestfile.GuestRefused},
		"no directory":      {file: with(func(f *guestfile.File) { f.Path = filepath.Join(dir, "none", "file") }), data: strings.NewReader("12345"), reason: guestfile.GuestRefused},
		"off":               {id: "off", file: good, data: strings.NewReader("12345"), reason: fault.NotRunning},
	} {
		t.Run(name, func(t *testing.T) {
			id := "p1"
			if tt.id != "" {
				id = tt.id
			}
			_, err := c.Push(t.Context(), id, tt.file, tt.data)
			if err == nil || fault.Reason(err) != tt.reason || tt.err != nil && !errors.Is(err, tt.err) {
				t.Errorf("%v, want reason %q, error %v", err, tt.reason, tt.err)
			}
		})
	}
	if diff := cmp.Diff([]string{"directory", "file"}, names(t, dir)); diff != "" {
		t.Error(diff)
	}
	if text, err := os.ReadFile(path); err != nil || string(text) != "before" {
		t.Errorf("the file holds %q, %v", text, err)
	}
}

type errReader struct{ err error }

func (r errReader) Read([]byte) (int, error) { return 0, r.err }

// sink keeps what Pull delivers, and fails after so many bytes if fails is not nil.
type sink struct {
	info  guestfile.Info
	data  bytes.Buffer
	fails error
}

func (s *sink) Info(i guestfile.Info) error { s.info = i; return nil }

func (s *sink) Write(p []byte) (int, error) {
	if s.fails != nil {
		return 0, s.fails
	}
	return s.data.Write(p)
}

func TestPull(t *testing.T) {
	c, dir := copier(t)
	for name, data := range map[string]string{"empty": "", "one line": "a\nb\n", "big": strings.Repeat("0123456789\n", 50000), "it's $(false) \"odd\"": "x"} {
		t.Run(name, func(t *testing.T) {
			path := filepath.Join(dir, name)
			if err := os.WriteFile(path, []byte(data), 0o640); err != nil {
				t.Fatal(err)
			}
			if err := os.Chown(path, 1000, 1001); err != nil {
				t.Fatal(err)
			}
			link := path + ".link"
			if err := os.Symlink(name, link); err != nil {
				t.Fatal(err)
			}
			for _, path := range []string{path, link} {
				var s sink
				sum, err := c.Pull(t.Context(), "p1", path, 0, &s)
				if want := sha256.Sum256([]byte(data)); err != nil || !bytes.Equal(sum, want[:]) || s.data.String() != data {
					t.Errorf("%s: %d bytes, digest %x, %v", path, s.data.Len(), sum, err)
				}
				if s.info.Size != uint64(len(data)) || s.info.Mode != 0o640 || s.info.UID != 1000 || s.info.GID != 1001 || s.info.ModTime.IsZero() {
					t.Errorf("%s: %+v", path, s.info)
				}
			}
		})
	}
}

func TestPullRefuses(t *testing.T) {
	c, dir := copier(t)
	file := filepath.Join(dir, "file")
	if err := os.WriteFile(file, bytes.Repeat([]byte{'x'}, 1<<20), 0o600); err != nil {
		t.Fatal(err)
	}
	left := errors.New("the caller left")
	for name, tt := range map[string]struct {
		id, path string
		max      uint64
		to       sink
		reason   string
		err      error
	}{
		"none":         {path: filepath.Join(dir, "none"), reason: guestfile.NoSuchFile},
		"directory":    {path: dir, reason: guestfile.GuestRefused},
		"device":       {path: "/dev/zero", reason: guestfile.GuestRefused},
		"too large":    {path: file, max: 1<<20 - 1, reason: guestfile.TooLarge},
		"relative":     {path: "file", reason: fault.InvalidField},
		"huge":         {path: file, max: guestfile.MaxBytes + 1, reason: fault.InvalidField},
		"off":          {id: "off", path: file, reason: fault.NotRunning},
		"nobody there": {path: file, to: sink{fails: left}, err: left},
		// Its size is said to be 0.
		"grows": {path: "/proc/self/status", reason: guestfile.Changed},
	} {
		t.Run(name, func(t *testing.T) {
			id := "p1"
			if tt.id != "" {
				id = tt.id
			}
			_, err := c.Pull(t.Context(), id, tt.path, tt.max, &tt.to)
			if err == nil || fault.Reason(err) != tt.reason || tt.err != nil && !errors.Is(err, tt.err) {
				t.Errorf("%v, want reason %q, error %v", err, tt.reason, tt.err)
			}
		})
	}
}

// liar is a guest whose programs print what a test says.
type liar string

func (l liar) Exec(_ context.Context, _ string, o container.ExecOptions) (uint32, error) {
	for _, c := range []byte(l) { // in the smallest pieces
		if _, err := o.Stdout.Write([]byte{c}); err != nil {
			return 0, nil
		}
	}
	return 0, nil
}

func TestPullBelievesNothing(t *testing.T) {
	for name, tt := range map[string]struct{ says, reason string }{
		"good":          {"3 644 0 0 1700000000\nabc", ""},
		"nothing":       {"", guestfile.GuestRefused},
		"no numbers":    {"many of them\n", guestfile.GuestRefused},
		"negative":      {"-3 644 0 0 0\nabc", guestfile.GuestRefused},
		"endless line":  {strings.Repeat("1", 10000), guestfile.GuestRefused},
		"too few bytes": {"4 644 0 0 0\nabc", guestfile.Changed},
		"more bytes":    {"2 644 0 0 0\nabc", guestfile.Changed},
		"huge":          {"18446744073709551615 644 0 0 0\n", guestfile.TooLarge},
	} {
		t.Run(name, func(t *testing.T) {
			c := &guestfile.Copier{Guests: liar(tt.says), Phones: phones{}}
			if _, err := c.Pull(t.Context(), "p1", "/file", 0, &sink{}); fault.Reason(err) != tt.reason || (err == nil) != (tt.reason == "") {
				t.Errorf("%v, want reason %q", err, tt.reason)
			}
		})
	}
}
