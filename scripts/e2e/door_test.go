package e2e

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"
)

// door is phonectl at one of an agent's doors.
type door struct {
	t        testing.TB
	phonectl string
	flags    []string      // which door
	limit    time.Duration // of one wait; a minute if zero
}

// command is phonectl at this door.
func (d *door) command(ctx context.Context, args ...string) *exec.Cmd {
	return exec.CommandContext(ctx, d.phonectl, append(d.flags[:len(d.flags):len(d.flags)], args...)...)
}

func (d *door) patience() time.Duration { return cmp.Or(d.limit, time.Minute) }

// ctl runs phonectl, which must succeed, and returns its standard output.
func (d *door) ctl(args ...string) string {
	d.t.Helper()
	return d.must(d.command(d.t.Context(), args...))
}

func (d *door) must(cmd *exec.Cmd) string {
	d.t.Helper()
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	if err := cmd.Run(); err != nil {
		d.t.Fatalf("%s: %v\n%s%s", strings.Join(cmd.Args[1:], " "), err, stdout.String(), stderr.String())
	}
	return stdout.String()
}

// refused runs phonectl, which must fail with the exit code, and returns its standard error.
func (d *door) refused(code int, args ...string) string {
	d.t.Helper()
	return d.mustRefuse(code, d.command(d.t.Context(), args...))
}

func (d *door) mustRefuse(code int, cmd *exec.Cmd) string {
	d.t.Helper()
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	err := cmd.Run()
	if cmd.ProcessState == nil || cmd.ProcessState.ExitCode() != code {
		d.t.Fatalf("%s: %v, want exit code %d\n%s%s", strings.Join(cmd.Args[1:], " "), err, code, stdout.String(), stderr.String())
	}
	return stderr.String()
}

// phone is the part of `phonectl show -o json` that the tests read.
type phone struct {
	Status   string `json:"status"`
	InitPID  int    `json:"initPid"`
	Reason   string `json:"reason"`
	Viewers  int    `json:"viewers"`
	DataGen  string `json:"dataGeneration"`
	LastFail *struct {
		Message string `json:"message"`
		Reason  string `json:"reason"`
	} `json:"lastFailure"`
}

func (d *door) show(id string) phone {
	d.t.Helper()
	var p phone
	text := d.ctl("show", id, "-o", "json")
	if err := json.Unmarshal([]byte(text), &p); err != nil {
		d.t.Fatalf("decode phonectl show: %v\n%s", err, text)
	}
	if p.Status == "" {
		d.t.Fatalf("phonectl show printed no status:\n%s", text)
	}
	return p
}

// create makes a phone and powers it on.
func (d *door) create(id string, flags ...string) {
	d.t.Helper()
	d.ctl(append([]string{"create", id, "--image", "phonehost.dev/testphone:latest", "--memory", "256MiB", "--data", "128MiB"}, flags...)...)
	d.ctl("on", id)
}

// recording is what `phonectl record -o json` prints.
type recording struct {
	Width, Height int
	Frames        int
	KeyFrames     int
	BitrateKbps   float64
}

func (d *door) recorded(cmd *exec.Cmd) recording {
	d.t.Helper()
	var r recording
	text := d.must(cmd)
	if err := json.Unmarshal([]byte(text), &r); err != nil {
		d.t.Fatalf("decode phonectl record: %v\n%s", err, text)
	}
	return r
}

// waitInit waits until the phone runs with another init.
func (d *door) waitInit(id string, before int) {
	d.t.Helper()
	deadline := time.NewTimer(d.patience())
	defer deadline.Stop()
	again := time.NewTicker(50 * time.Millisecond)
	defer again.Stop()
	for d.show(id).InitPID == before || d.show(id).InitPID == 0 {
		select {
		case <-again.C:
		case <-deadline.C:
			d.t.Fatalf("%s still has init %d", id, before)
		}
	}
}

// change is the part of a line of `phonectl ls -w -o json` that the tests read.
type change struct {
	Phone struct {
		Spec    struct{ ID string }
		Status  string
		Viewers int
	}
}

// waitStatus waits until the phone has the status.
func (d *door) waitStatus(id, status string) {
	d.t.Helper()
	d.waitChange(id, status, func(c change) bool { return c.Phone.Status == status })
}

// waitViewers waits until so many viewers are attached.
func (d *door) waitViewers(id string, n int) {
	d.t.Helper()
	d.waitChange(id, itoa(n)+" viewers", func(c change) bool { return c.Phone.Viewers == n })
}

// waitRecording waits until a recording has written something: what the phone does from then on is in it.
func (d *door) waitRecording(file string) {
	d.t.Helper()
	ctx, cancel := context.WithTimeout(d.t.Context(), d.patience())
	defer cancel()
	for tick := time.NewTicker(5 * time.Millisecond); ; {
		if info, err := os.Stat(file); err == nil && info.Size() > 0 {
			return
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			d.t.Fatalf("nothing was recorded in %s within %v", file, d.patience())
		}
	}
}

// waitChange follows `phonectl ls -w` until the phone is as ok wants it.
func (d *door) waitChange(id, what string, ok func(change) bool) {
	d.t.Helper()
	ctx, cancel := context.WithTimeout(d.t.Context(), d.patience())
	defer cancel()
	cmd := d.command(ctx, "ls", "-w", "-o", "json")
	out, err := cmd.StdoutPipe()
	if err != nil {
		d.t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		d.t.Fatal(err)
	}
	defer cmd.Wait()
	defer cancel()
	for dec := json.NewDecoder(out); ; {
		var c change
		if err := dec.Decode(&c); err != nil {
			d.t.Fatalf("%s: waited for %s: %v; it is %+v", id, what, err, d.show(id))
		}
		if c.Phone.Spec.ID == id && ok(c) {
			return
		}
	}
}
