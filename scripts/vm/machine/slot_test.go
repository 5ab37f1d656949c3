package machine

import (
	"bufio"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/phonehost/phonehost/scripts/testenv"
)

// ownSlots returns a name of slots that no other test and no machine takes.
func ownSlots() string { return "phonehost-vm-test-" + rand.Text() }

// take takes a slot that must be free.
func take(t *testing.T, prefix string) io.Closer {
	t.Helper()
	slot, err := takeSlot(t.Context(), prefix, Slots, func(holders string) { t.Errorf("no slot is free, but taken by %s", holders) })
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { slot.Close() })
	return slot
}

// waiter waits for a slot.
type waiter struct {
	holders string // of all slots
	taken   chan io.Closer
}

// queued returns a waiter that has said that it waits.
func queued(t *testing.T, ctx context.Context, prefix string) *waiter {
	t.Helper()
	w := &waiter{taken: make(chan io.Closer, 1)}
	said := make(chan struct{})
	go func() {
		defer close(w.taken)
		slot, err := takeSlot(ctx, prefix, Slots, func(holders string) {
			w.holders = holders
			close(said)
		})
		if err != nil && ctx.Err() == nil {
			t.Error(err)
		}
		if slot != nil {
			w.taken <- slot
		}
	}()
	<-said
	return w
}

func TestSlots(t *testing.T) {
	prefix := ownSlots()
	first := take(t, prefix)
	take(t, prefix)
	third := queued(t, t.Context(), prefix)
	name, err := os.ReadFile("/proc/self/comm")
	if err != nil {
		t.Fatal(err)
	}
	me := fmt.Sprintf("pid %d (%s)", os.Getpid(), strings.TrimSpace(string(name)))
	if want := me + ", " + me; third.holders != want {
		t.Errorf("the holders are %q, want %q", third.holders, want)
	}
	select {
	case <-third.taken:
		t.Error("three slots were taken of two")
	default:
	}
	if err := first.Close(); err != nil {
		t.Fatal(err)
	}
	(<-third.taken).Close()
	take(t, prefix).Close()
}

// TestSlotsOfOthers takes slots of another name: it does not matter whose they are.
func TestSlotsOfOthers(t *testing.T) {
	take(t, ownSlots())
	prefix := ownSlots()
	take(t, prefix)
	take(t, prefix)
	if _, err := net.Listen("unix", "@"+prefix+"-1"); !errors.Is(err, unix.EADDRINUSE) {
		t.Errorf("the second slot is no socket of that name: %v", err)
	}
}

// TestSlotsAcrossNamespaces waits in a network namespace of its own for slots that were taken outside of it.
func TestSlotsAcrossNamespaces(t *testing.T) {
	if prefix := os.Getenv(slotEnv); prefix != "" {
		_, err := takeSlot(t.Context(), prefix, Slots, func(holders string) { fmt.Println("\nwaits for", holders) })
		fmt.Println("\ntaken:", err)
		return
	}
	testenv.Root(t)
	prefix := ownSlots()
	first := take(t, prefix)
	take(t, prefix)
	other := exec.CommandContext(t.Context(), os.Args[0], "-test.run=^TestSlotsAcrossNamespaces$", "-test.timeout=5m")
	other.Env = append(os.Environ(), slotEnv+"="+prefix, fmt.Sprintf("%s=/proc/%d/ns/net", HostNetwork, os.Getpid()))
	other.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNET}
	out, err := other.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := other.Start(); err != nil {
		t.Fatal(err)
	}
	var said []string
	for lines := bufio.NewScanner(out); lines.Scan(); {
		if line := lines.Text(); strings.HasPrefix(line, "waits for") || strings.HasPrefix(line, "taken") {
			said = append(said, line)
			first.Close()
		}
	}
	if err := other.Wait(); err != nil {
		t.Error(err)
	}
	if len(said) != 2 || !strings.Contains(said[0], fmt.Sprintf("pid %d ", os.Getpid())) || said[1] != "taken: <nil>" {
		t.Errorf("it said %q, want that it waited for this process and then had one", said)
	}
}

func TestSlotGivenUp(t *testing.T) {
	prefix := ownSlots()
	take(t, prefix)
	take(t, prefix)
	why := errors.New("enough waited")
	ctx, cancel := context.WithCancelCause(t.Context())
	if _, err := takeSlot(ctx, prefix, Slots, func(string) { cancel(why) }); !errors.Is(err, why) {
		t.Errorf("got %v, want the context's cause", err)
	}
	if _, err := takeSlot(ctx, ownSlots(), Slots, nil); !errors.Is(err, why) {
		t.Errorf("a context that had ended: got %v, want its cause", err)
	}
}

// TestSlotsOfMany has many wait at once: all get one in the end, and no more than Slots at a time have one.
func TestSlotsOfMany(t *testing.T) {
	const many = 40
	prefix := ownSlots()
	first, second := take(t, prefix), take(t, prefix)
	var now atomic.Int32
	var all, waiting sync.WaitGroup
	waiting.Add(many)
	for range many {
		all.Go(func() {
			slot, err := takeSlot(t.Context(), prefix, Slots, func(string) { waiting.Done() })
			if err != nil {
				t.Error(err)
				return
			}
			if n := now.Add(1); n > Slots {
				t.Errorf("%d slots are taken of %d", n, Slots)
			}
			runtime.Gosched()
			now.Add(-1)
			if err := slot.Close(); err != nil {
				t.Error(err)
			}
		})
	}
	waiting.Wait()
	for _, slot := range []io.Closer{first, second} {
		if err := slot.Close(); err != nil {
			t.Error(err)
		}
	}
	all.Wait()
}

// slotEnv makes TestSlotOfAKilledProcess the process that is killed; it is the name of its slots.
const slotEnv = "PHONEHOST_TEST_SLOT_HELPER"

func TestSlotOfAKilledProcess(t *testing.T) {
	if prefix := os.Getenv(slotEnv); prefix != "" {
		take(t, prefix)
		fmt.Println("\ntaken")
		<-t.Context().Done()
		return
	}
	prefix := ownSlots()
	take(t, prefix)
	other := exec.CommandContext(t.Context(), os.Args[0], "-test.run=^TestSlotOfAKilledProcess$", "-test.timeout=5m")
	other.Env = append(os.Environ(), slotEnv+"="+prefix)
	out, err := other.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := other.Start(); err != nil {
		t.Fatal(err)
	}
	lines := bufio.NewScanner(out)
	for lines.Scan() && lines.Text() != "taken" {
	}
	third := queued(t, t.Context(), prefix)
	if !strings.Contains(third.holders, fmt.Sprintf("pid %d ", other.Process.Pid)) {
		t.Errorf("the holders are %q, want the other process among them", third.holders)
	}
	if err := other.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	(<-third.taken).Close()
	other.Wait()
}

// TestSlotsInACrowd has more wait than the kernel lets connect to a holder.
func TestSlotsInACrowd(t *testing.T) {
	prefix := ownSlots()
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	closed := sync.OnceValue(func() error { return unix.Close(fd) })
	t.Cleanup(func() { closed() })
	if err := unix.Bind(fd, &unix.SockaddrUnix{Name: "@" + prefix + "-0"}); err != nil {
		t.Fatal(err)
	}
	if err := unix.Listen(fd, 0); err != nil { // one may wait to be accepted
		t.Fatal(err)
	}
	other, err := net.Listen("unix", "@"+prefix+"-1")
	if err != nil {
		t.Fatal(err)
	}
	defer other.Close()
	first := queued(t, t.Context(), prefix)
	second := queued(t, t.Context(), prefix)
	if n := len(strings.Split(second.holders, ", ")); n != 1 {
		t.Errorf("the holders of a crowd's slots are %q: the first one's can be asked by one alone", second.holders)
	}
	if err := closed(); err != nil {
		t.Fatal(err)
	}
	var all sync.WaitGroup
	for _, w := range []*waiter{first, second} {
		all.Go(func() { (<-w.taken).Close() })
	}
	all.Wait()
}
