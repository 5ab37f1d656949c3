//go:build faults

package crashpoint

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// Enabled is whether points do anything. It is a constant: what stands below "if crashpoint.Enabled" is not in a program without them.
const Enabled = true

// DirEnv is the environment variable that names the directory of the plan.
const DirEnv = "PHONEHOST_FAULTS"

// ErrInjected is the error of every failure that a plan asked for.
var ErrInjected = errors.New("failure asked for by a test")

// points is the state of the process's points: the one thing here that is global, as points are passed everywhere.
var points = struct {
	dir string

	mu       sync.Mutex
	text     string // of the plan, as it was read last
	lines    []line
	arrivals map[string]int
}{dir: os.Getenv(DirEnv), arrivals: map[string]int{}}

// line is a line of the plan: what to do from the from-th arrival at name on, count times.
type line struct {
	action, name string
	from, count  int
}

// fallible stands behind the name of a point that can fail where arrivals are recorded.
const fallible = "fallible"

// Reached marks an instant at which the process may die.
func Reached(name string) { _ = arrive(name, false) }

// Fail marks an instant at which the process may die or what follows may fail: where it returns an error, the caller does as if what
// follows had returned it.
func Fail(name string) error { return arrive(name, true) }

func arrive(name string, mayFail bool) error {
	if points.dir == "" {
		return nil
	}
	l, text := look(name, mayFail)
	switch l.action {
	case "kill":
		die()
	case "hold":
		hold(name, text)
	case "fail":
		note("failed", name)
		return fmt.Errorf("%s: %w", name, ErrInjected)
	}
	return nil
}

// look counts an arrival and returns what the plan says about it, and the plan.
func look(name string, mayFail bool) (line, string) {
	points.mu.Lock()
	defer points.mu.Unlock()
	text, _ := os.ReadFile(file("plan")) // none: nothing is planned
	if string(text) != points.text {
		points.text, points.lines, points.arrivals = string(text), parse(string(text)), map[string]int{}
	}
	points.arrivals[name]++
	n := points.arrivals[name]
	for _, l := range points.lines {
		switch {
		case l.action == "record" && mayFail:
			note("reached", name+" "+fallible)
		case l.action == "record":
			note("reached", name)
		case l.name != name || n < l.from || n >= l.from+l.count || l.action == "fail" && !mayFail:
		default:
			return l, points.text
		}
	}
	return line{}, ""
}

// parse reads a plan. A line that is none ends the process: a test with such a plan tests nothing.
func parse(text string) (lines []line) {
	for row := range strings.Lines(text) {
		if row = strings.TrimSpace(row); row == "" || row[0] == '#' {
			continue
		}
		var l line
		if _, err := fmt.Sscan(row, &l.action, &l.name, &l.from, &l.count); err != nil || l.from < 1 || l.count < 1 {
			panic(fmt.Sprintf("plan of faults: %q is not ACTION NAME FROM COUNT: %v", row, err))
		}
		lines = append(lines, l)
	}
	return lines
}

func file(name string) string { return filepath.Join(points.dir, name) }

// note adds a line to a file of the directory.
func note(name, text string) {
	f, err := os.OpenFile(file(name), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err == nil {
		_, err = f.WriteString(text + "\n")
		err = errors.Join(err, f.Close())
	}
	if err != nil {
		panic("note of a fault: " + err.Error())
	}
}

// die ends the process as a crash does: nothing of it runs any more.
func die() {
	if err := os.Remove(file("plan")); err != nil {
		panic("plan of faults: " + err.Error())
	}
	_ = unix.Kill(os.Getpid(), unix.SIGKILL)
	select {}
}

// holdPoll is how often a held point looks for another plan.
const holdPoll = 5 * time.Millisecond

// hold says that it waits, and waits until there is another plan.
func hold(name, text string) {
	note("held", name)
	for {
		if now, _ := os.ReadFile(file("plan")); string(now) != text {
			return
		}
		time.Sleep(holdPoll)
	}
}
