package app

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/phonehost/phonehost/scripts/testphone/logd"
)

// process is this process. mu guards writing to the link.
type process struct {
	name string
	link io.Writer
	log  func(priority byte, format string, args ...any)
	work sync.WaitGroup

	mu sync.Mutex
}

// Run is an app's process until its link ends.
func Run(ctx context.Context, name string, link io.ReadWriter) error {
	nameThread(name)
	p := &process{name: name, link: link, log: func(priority byte, format string, args ...any) {
		// A log that nobody takes is no reason to end.
		_ = logd.Send("", logd.Record{Thread: uint16(os.Getpid()), Time: time.Now(), Priority: priority, Tag: name, Message: fmt.Sprintf(format, args...)})
	}}
	ctx, cancel := context.WithCancel(ctx)
	defer p.work.Wait()
	defer cancel()
	if err := p.say(Message{Attached: true}); err != nil {
		return err
	}
	in := bufio.NewScanner(link)
	in.Buffer(nil, 1<<20)
	for in.Scan() {
		var i Intent
		if err := json.Unmarshal(in.Bytes(), &i); err != nil {
			return fmt.Errorf("link: %w", err)
		}
		p.work.Go(func() { p.handle(ctx, i) })
	}
	return in.Err()
}

// nameThread gives the main thread the name that Android gives it: the end of the process's, in 15 bytes.
func nameThread(name string) {
	_ = os.WriteFile("/proc/self/comm", []byte(name[max(0, len(name)-15):]), 0) // without /proc it has none
}

func (p *process) say(m Message) error {
	b, err := json.Marshal(m)
	if err != nil {
		return err
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	_, err = p.link.Write(append(b, '\n'))
	return err
}

// handle carries out an intent and says what came of it.
func (p *process) handle(ctx context.Context, i Intent) {
	done := Message{Done: i.ID, Code: ResultOK}
	var err error
	switch strings.TrimPrefix(i.Class, i.Package) {
	case Net:
		done.Data, err = p.net(ctx, i)
	case Loop:
		err = p.loop(ctx, i)
	case Spawn:
		err = errors.Join(p.say(Message{StartService: i.Package + Worker}), p.say(Message{StartService: i.Package + Isolated}))
	}
	if err != nil {
		done.Code, done.Data = ResultCanceled, err.Error()
	}
	p.log('I', "%s %s: %d %s", i.Kind, i.Class, done.Code, done.Data)
	if err := p.say(done); err != nil && ctx.Err() == nil {
		p.log('E', "link: %v", err)
	}
}

// loop keeps processors busy until the end.
func (p *process) loop(ctx context.Context, i Intent) error {
	threads := 1
	if text := i.Extras["threads"]; text != "" {
		var err error
		if threads, err = strconv.Atoi(text); err != nil || threads < 1 || threads > 64 {
			return fmt.Errorf("threads is %.40q, want 1 to 64", text)
		}
	}
	runtime.GOMAXPROCS(threads + 1)
	for range threads {
		p.work.Go(func() {
			for n := 1; n&0xfffff != 0 || ctx.Err() == nil; n++ {
			}
		})
	}
	return nil
}
