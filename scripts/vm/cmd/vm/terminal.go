package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"sync"

	"golang.org/x/sys/unix"
	"golang.org/x/term"

	"github.com/phonehost/phonehost/scripts/vm/control"
	"github.com/phonehost/phonehost/scripts/vm/machine"
)

// terminal is the one that this program was started at.
type terminal struct{ fd int }

// terminalOf returns the terminal that both streams are, or nil: then the program in the machine gets none.
func terminalOf(in io.Reader, out io.Writer) *terminal {
	from, ok1 := in.(*os.File)
	to, ok2 := out.(*os.File)
	if !ok1 || !ok2 || !term.IsTerminal(int(from.Fd())) || !term.IsTerminal(int(to.Fd())) {
		return nil
	}
	return &terminal{fd: int(from.Fd())}
}

// exec runs a command of the machine at this terminal. Every key goes to it, those that make signals too, until it has ended.
func (t *terminal) exec(ctx context.Context, m *machine.Machine, cmd control.Command) (code int, err error) {
	changed := make(chan os.Signal, 1)
	signal.Notify(changed, unix.SIGWINCH) // before the size is read: no change is missed
	defer signal.Stop(changed)
	size, err := t.size()
	if err != nil {
		return 0, err
	}
	if name := os.Getenv("TERM"); name != "" {
		cmd.Env = append(cmd.Env, "TERM="+name)
	}
	before, err := term.MakeRaw(t.fd)
	if err != nil {
		return 0, fmt.Errorf("take the terminal: %w", err)
	}
	defer func() {
		if lost := term.Restore(t.fd, before); lost != nil && err == nil {
			err = fmt.Errorf("give the terminal back: %w", lost)
		}
	}()
	resize := make(chan control.Size)
	done := make(chan struct{})
	var watcher sync.WaitGroup
	defer watcher.Wait()
	defer close(done)
	watcher.Go(func() { t.watch(changed, resize, done) })
	cmd.Terminal, cmd.Resize = &size, resize
	return m.Exec(ctx, cmd)
}

// watch sends the terminal's size whenever it has changed, until done is closed.
func (t *terminal) watch(changed <-chan os.Signal, resize chan<- control.Size, done <-chan struct{}) {
	for {
		select {
		case <-changed:
		case <-done:
			return
		}
		size, err := t.size()
		if err != nil {
			return // the terminal is gone, which ends all
		}
		select {
		case resize <- size:
		case <-done:
			return
		}
	}
}

func (t *terminal) size() (control.Size, error) {
	for {
		w, err := unix.IoctlGetWinsize(t.fd, unix.TIOCGWINSZ)
		if errors.Is(err, unix.EINTR) {
			continue
		}
		if err != nil {
			return control.Size{}, fmt.Errorf("read the size of the terminal: %w", err)
		}
		return control.Size{Columns: w.Col, Rows: w.Row}, nil
	}
}
