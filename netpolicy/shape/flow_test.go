package shape_test

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"os"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/phonehost/phonehost/scripts/testenv/netlab"
)

// flow is traffic between the phone and the server.
type flow struct {
	down bool   // from the server to the phone, else the other way
	kind string // a congestion control of TCP, which sends what it can; or "udp"
	bits uint64 // what UDP sends of IP packets and their Ethernet headers, in bit/s
	// steady has UDP send evenly rather than as much: what it could not send while it had no processor is not made up for.
	steady bool
}

// result is what was seen of a flow in a window of time.
type result struct {
	rate float64 // payload that arrived, bit/s
	lost float64 // TCP: segments sent again, of those sent; UDP: datagrams that did not arrive
	rtts []time.Duration
}

// quantile of the round trips, q of 0 to 1.
func (r result) quantile(q float64) time.Duration {
	if len(r.rtts) == 0 {
		return 0
	}
	return r.rtts[int(q*float64(len(r.rtts)-1))]
}

// hurry puts the threads of this process before those of others, which may keep all processors busy: what is looked for is not how
// long a sender waits for one. What it returns ends that.
func hurry(t testing.TB) func() {
	t.Helper()
	former, err := unix.Getpriority(unix.PRIO_PROCESS, 0)
	must(t, err)
	nice := func(value int) {
		tasks, err := os.ReadDir("/proc/self/task")
		must(t, err)
		for _, task := range tasks {
			id, err := strconv.Atoi(task.Name())
			must(t, err)
			if err := unix.Setpriority(unix.PRIO_PROCESS, id, value); err != nil && !errors.Is(err, unix.ESRCH) {
				t.Fatal(err)
			}
		}
	}
	nice(-10)
	return func() { nice(20 - former) } // the system call answers 20 less the value
}

// totals are what a flow has done since it began.
type totals struct {
	at                   time.Time
	received, sent, lost int64
}

// measure lets a flow run, and looks at it from warm on for a window of time. Small packets go round meanwhile, every beat.
func (l lab) measure(t testing.TB, f flow, warm, window, beat time.Duration) result {
	t.Helper()
	defer hurry(t)()
	ctx, cancel := context.WithCancel(t.Context())
	var running sync.WaitGroup
	defer running.Wait()
	defer cancel()
	var look func() totals
	if f.kind == "udp" {
		look = l.udp(ctx, t, &running, f)
	} else {
		look = l.tcp(ctx, t, &running, f)
	}
	pings := l.ping(ctx, t, &running, beat)
	wait(warm)
	pings(true)
	before := look()
	wait(window)
	after := look()
	r := result{rate: 8 * float64(after.received-before.received) / after.at.Sub(before.at).Seconds(), rtts: pings(false)}
	if sent := after.sent - before.sent; sent > 0 {
		r.lost = float64(after.lost-before.lost) / float64(sent)
	}
	slices.Sort(r.rtts)
	return r
}

// tcp starts a TCP flow.
func (l lab) tcp(ctx context.Context, t testing.TB, running *sync.WaitGroup, f flow) func() totals {
	control := func(_, _ string, c syscall.RawConn) (err error) {
		if e := c.Control(func(fd uintptr) { err = unix.SetsockoptString(int(fd), unix.IPPROTO_TCP, unix.TCP_CONGESTION, f.kind) }); e != nil {
			return e
		}
		return os.NewSyscallError("TCP_CONGESTION "+f.kind, err)
	}
	var listener net.Listener
	listen := net.ListenConfig{Control: control}
	must(t, l.server.Do(func() (err error) { listener, err = listen.Listen(ctx, "tcp4", serverAddress+":0"); return err }))
	defer listener.Close()
	var phone net.Conn
	dial := net.Dialer{Control: control}
	must(t, l.phone.Do(func() (err error) { phone, err = dial.DialContext(ctx, "tcp4", listener.Addr().String()); return err }))
	server, err := listener.Accept()
	must(t, err)
	context.AfterFunc(ctx, func() { phone.Close(); server.Close() })
	from, to := phone, server
	if f.down {
		from, to = server, phone
	}
	var received atomic.Int64
	running.Go(func() {
		for buf := make([]byte, 1<<18); ; {
			if _, err := from.Write(buf); err != nil {
				return
			}
		}
	})
	running.Go(func() {
		for buf := make([]byte, 1<<18); ; {
			n, err := to.Read(buf)
			received.Add(int64(n))
			if err != nil {
				return
			}
		}
	})
	raw, err := from.(*net.TCPConn).SyscallConn()
	must(t, err)
	return func() totals {
		now := totals{at: time.Now(), received: received.Load()}
		var info *unix.TCPInfo
		must(t, raw.Control(func(fd uintptr) { info, err = unix.GetsockoptTCPInfo(int(fd), unix.IPPROTO_TCP, unix.TCP_INFO) }))
		must(t, err)
		now.sent, now.lost = int64(info.Data_segs_out), int64(info.Total_retrans)
		return now
	}
}

// payload is that of a datagram that fills a packet of 1500 bytes.
const payload = 1500 - 28

// udp starts a UDP flow at a steady rate.
func (l lab) udp(ctx context.Context, t testing.TB, running *sync.WaitGroup, f flow) func() totals {
	fromNS, toNS := l.phone, l.server
	if f.down {
		fromNS, toNS = l.server, l.phone
	}
	from, to := bind(t, fromNS, l.address(f.down)), bind(t, toNS, l.address(!f.down))
	raw, err := from.SyscallConn()
	must(t, err)
	must(t, raw.Control(func(fd uintptr) { err = unix.SetsockoptInt(int(fd), unix.SOL_UDP, unix.UDP_SEGMENT, payload) }))
	must(t, err)
	context.AfterFunc(ctx, func() { from.Close(); to.Close() })
	running.Go(func() {
		if err := pace(ctx, from, to.LocalAddr(), f); err != nil && ctx.Err() == nil {
			t.Errorf("send: %v", err)
		}
	})
	var expected, received, bytes atomic.Int64 // datagrams up to the one that came last, and those that came
	running.Go(func() {
		for buf := make([]byte, 1<<16); ; {
			n, _, err := to.ReadFrom(buf)
			if err != nil {
				return
			}
			expected.Store(int64(binary.LittleEndian.Uint64(buf)) + 1)
			received.Add(1)
			bytes.Add(int64(n))
		}
	})
	return func() totals {
		e, r := expected.Load(), received.Load()
		return totals{at: time.Now(), received: bytes.Load(), sent: e, lost: e - r}
	}
}

// pace sends numbered datagrams until ctx ends. As many as are due in a millisecond go at once, as one to the kernel.
func pace(ctx context.Context, from *net.UDPConn, to net.Addr, f flow) error {
	const wire = 8 * (1500 + 14)
	tolerance := time.Second
	if f.steady {
		tolerance = 20 * time.Millisecond
	}
	count := min(max(int(f.bits/1000/wire), 1), 40)
	every := time.Duration(float64(count) * wire / float64(f.bits) * float64(time.Second))
	buf := make([]byte, count*payload)
	due, n := time.Now(), 0
	for ctx.Err() == nil {
		for i := range count {
			binary.LittleEndian.PutUint64(buf[i*payload:], uint64(n+i))
		}
		if _, err := from.WriteTo(buf, to); err != nil && !errors.Is(err, unix.ENOBUFS) {
			return err
		}
		n += count
		due = due.Add(every)
		if late := time.Since(due); late > tolerance {
			due = due.Add(late)
		}
		wait(time.Until(due))
	}
	return nil
}

func (l lab) address(server bool) string {
	if server {
		return serverAddress
	}
	return phoneAddress
}

// bind opens a UDP socket in a namespace, with room for what comes while this process waits for a processor.
func bind(t testing.TB, ns netlab.Namespace, address string) *net.UDPConn {
	t.Helper()
	var conn net.PacketConn
	must(t, ns.Do(func() (err error) { conn, err = net.ListenPacket("udp4", address+":0"); return err }))
	raw, err := conn.(*net.UDPConn).SyscallConn()
	must(t, err)
	must(t, raw.Control(func(fd uintptr) { err = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, 16<<20) }))
	must(t, err)
	return conn.(*net.UDPConn)
}

// ping sends a datagram round from the phone every beat. What it returns gives the round trips since it was called before, and says
// whether those that follow count.
func (l lab) ping(ctx context.Context, t testing.TB, running *sync.WaitGroup, beat time.Duration) func(count bool) []time.Duration {
	phone, server := bind(t, l.phone, phoneAddress), bind(t, l.server, serverAddress)
	context.AfterFunc(ctx, func() { phone.Close(); server.Close() })
	began := time.Now()
	var mu sync.Mutex
	var counts bool
	var rtts []time.Duration
	running.Go(func() {
		for buf := make([]byte, 64); ; {
			n, from, err := server.ReadFrom(buf)
			if err != nil {
				return
			}
			_, _ = server.WriteTo(buf[:n], from)
		}
	})
	running.Go(func() {
		for buf := make([]byte, 64); ; {
			if _, _, err := phone.ReadFrom(buf); err != nil {
				return
			}
			sent := time.Duration(binary.LittleEndian.Uint64(buf))
			mu.Lock()
			if counts {
				rtts = append(rtts, time.Since(began)-sent)
			}
			mu.Unlock()
		}
	})
	running.Go(func() {
		tick := time.NewTicker(beat)
		defer tick.Stop()
		for {
			select {
			case <-ctx.Done():
				return
			case <-tick.C:
			}
			buf := binary.LittleEndian.AppendUint64(nil, uint64(time.Since(began)))
			_, _ = phone.WriteTo(buf, server.LocalAddr())
		}
	})
	return func(count bool) []time.Duration {
		mu.Lock()
		defer mu.Unlock()
		was := rtts
		counts, rtts = count, nil
		return was
	}
}

// wait lets so much time of the real clock pass, in which traffic flows.
func wait(d time.Duration) {
	if d > 0 {
		<-time.After(d)
	}
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(fmt.Errorf("%s: %w", t.Name(), err))
	}
}
