package network

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/containerd/errdefs"
	"go.uber.org/goleak"

	"github.com/phonehost/phonehost/agent/event"
	"github.com/phonehost/phonehost/agent/fault"
	"github.com/phonehost/phonehost/agent/store"
	"github.com/phonehost/phonehost/netpolicy"
	"github.com/phonehost/phonehost/netpolicy/policy"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// kernel is the engine of a host in memory. It outlives the managers of a test, as a kernel does.
type kernel struct {
	mu       sync.Mutex
	policies map[string]policy.Policy
	status   map[string]netpolicy.Status
	// fail is the error of the next calls; hang has them wait for their context to end.
	fail error
	hang bool
	// calls names the changing calls.
	calls   []string
	denials chan []netpolicy.Denial
	flows   chan netpolicy.Flow
}

func newKernel() *kernel {
	return &kernel{policies: map[string]policy.Policy{}, status: map[string]netpolicy.Status{}, denials: make(chan []netpolicy.Denial), flows: make(chan netpolicy.Flow)}
}

func (k *kernel) call(ctx context.Context, name string, fn func()) error {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.calls = append(k.calls, name)
	if k.hang {
		k.mu.Unlock()
		<-ctx.Done()
		k.mu.Lock()
		return ctx.Err()
	}
	if k.fail == nil {
		fn()
	}
	return k.fail
}

func (k *kernel) SetPolicy(ctx context.Context, name string, p policy.Policy) error {
	return k.call(ctx, "set "+name, func() { k.policies[name] = p })
}

func (k *kernel) DropPolicy(ctx context.Context, name string) error {
	return k.call(ctx, "drop "+name, func() { delete(k.policies, name) })
}

func (k *kernel) Status(_ context.Context, id string) (netpolicy.Status, error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	s, found := k.status[id]
	if !found {
		return s, fmt.Errorf("phone %s: %w", id, errdefs.ErrNotFound)
	}
	return s, nil
}

func (k *kernel) Flows(_ context.Context, id string) ([]netpolicy.Flow, error) {
	return nil, fmt.Errorf("phone %s: %w", id, errdefs.ErrNotFound)
}

func (k *kernel) Test(context.Context, string, netpolicy.Probe) (netpolicy.Decision, error) {
	return netpolicy.Decision{}, errdefs.ErrNotFound
}

// Denials gives what the test sends; the channel is closed with the context, as the engine's is.
func (k *kernel) Denials(ctx context.Context) <-chan []netpolicy.Denial { return until(ctx, k.denials) }

func (k *kernel) WatchFlows(ctx context.Context) <-chan netpolicy.Flow { return until(ctx, k.flows) }

func until[T any](ctx context.Context, in <-chan T) <-chan T {
	out := make(chan T)
	go func() {
		defer close(out)
		for {
			select {
			case v := <-in:
				select {
				case out <- v:
				case <-ctx.Done():
					return
				}
			case <-ctx.Done():
				return
			}
		}
	}()
	return out
}

// set changes how the kernel answers.
func (k *kernel) set(fn func()) {
	k.mu.Lock()
	defer k.mu.Unlock()
	fn()
}

// names are the policies that the kernel has, each with its number of rules.
func (k *kernel) names() string {
	k.mu.Lock()
	defer k.mu.Unlock()
	var all []string
	for _, name := range slices.Sorted(maps.Keys(k.policies)) {
		all = append(all, fmt.Sprintf("%s:%d", name, len(k.policies[name].Rules)))
	}
	return strings.Join(all, " ")
}

// lines reads texts of the form of these tests: a default, then lines that are rules, of which "wrong" is none.
func lines(text []byte) (policy.Policy, error) {
	var p policy.Policy
	for i, line := range strings.Split(strings.TrimSpace(string(text)), "\n") {
		switch line {
		case "wrong":
			return p, fmt.Errorf("line %d: %q is no rule: %w", i+1, line, errdefs.ErrInvalidArgument)
		case "default deny-all":
			p.Default = policy.DenyAll
		default:
			p.Rules = append(p.Rules, policy.Rule{Name: line})
		}
	}
	return p, nil
}

// life is one life of an agent over a kernel and a database.
type life struct {
	*Manager
	t       *testing.T
	db      *store.DB
	journal *event.Journal
	// users has phones by the policy that they have.
	users map[string][]string
	// problems is what OnProblems was called with last: "name: problem".
	mu       sync.Mutex
	problems []string
}

// told is what OnProblems was called with last.
func (l *life) told() []string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.problems
}

func begin(t *testing.T, k *kernel, path string) *life {
	t.Helper()
	db, err := store.Open(store.Config{Path: path})
	if err != nil {
		t.Fatal(err)
	}
	logger := slog.New(slog.NewTextHandler(t.Output(), nil))
	journal, err := event.New(event.Config{DB: db, Logger: logger})
	if err != nil {
		t.Fatal(err)
	}
	l := &life{t: t, db: db, journal: journal, users: map[string][]string{}}
	l.Manager, err = Open(t.Context(), Config{
		DB: db, Journal: journal, Engine: k, Parse: lines, Logger: logger,
		Users: func(_ *store.Tx, name string) []string { return l.users[name] },
		OnProblems: func(policies []Policy) {
			l.mu.Lock()
			defer l.mu.Unlock()
			l.problems = nil
			for _, p := range policies {
				l.problems = append(l.problems, p.Name+": "+p.Problem)
			}
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	return l
}

func (l *life) end() {
	l.t.Helper()
	l.Close()
	l.journal.Close()
	if err := l.db.Close(); err != nil {
		l.t.Error(err)
	}
}

// has tells whether a phone can be given a policy.
func (l *life) has(name string) bool {
	l.t.Helper()
	var has bool
	err := l.db.View(func(tx *store.Tx) (err error) { has, err = Has(tx, name); return err })
	if err != nil {
		l.t.Error(err)
	}
	return has
}

// events are those of a kind, as "a=b" words in the order of names.
func (l *life) events(kind event.Kind) []string {
	l.t.Helper()
	synctest.Wait()
	time.Sleep(20 * time.Millisecond) // fake time: lets the journal's writer gather
	synctest.Wait()
	var all []string
	err := l.journal.Watch(l.t.Context(), event.WatchOptions{NoFollow: true}, func(events []event.Event) error {
		for _, e := range events {
			if e.Kind != kind {
				continue
			}
			words := []string{e.PhoneID}
			for _, name := range slices.Sorted(maps.Keys(e.Attributes)) {
				if name != "sha256" {
					words = append(words, name+"="+e.Attributes[name])
				}
			}
			all = append(all, strings.TrimSpace(strings.Join(words, " ")))
		}
		return nil
	})
	if err != nil {
		l.t.Fatal(err)
	}
	return all
}

// put puts a policy and fails the test if that fails.
func (l *life) put(name, text string) Policy {
	l.t.Helper()
	p, err := l.Put(l.t.Context(), name, text, "uid/0")
	if err != nil {
		l.t.Fatal(err)
	}
	return p
}

// inBubble runs fn in fake time over a fresh kernel and database.
func inBubble(t *testing.T, fn func(t *testing.T, k *kernel, path string)) {
	t.Helper()
	path := filepath.Join(t.TempDir(), "db")
	synctest.Test(t, func(t *testing.T) { fn(t, newKernel(), path) })
}

func TestPolicies(t *testing.T) {
	inBubble(t, func(t *testing.T, k *kernel, path string) {
		l := begin(t, k, path)
		defer func() { l.end() }()
		p := l.put("school", "default deny-all\na\nb\n")
		if p.Default != "deny-all" || p.Rules != 2 || p.UpdatedBy != "uid/0" || p.UpdateTime.IsZero() || p.Problem != "" {
			t.Errorf("put %+v", p)
		}
		l.put("work", "a")
		l.put("school", "c")
		l.put("school", "c") // changes nothing
		if got := k.names(); got != "school:1 work:1" {
			t.Errorf("the kernel has %s", got)
		}
		if p, text, err := l.Get("school"); err != nil || text != "c" || p.Rules != 1 {
			t.Errorf("get: %+v %q %v", p, text, err)
		}
		if p, text, err := l.Get(netpolicy.DefaultPolicy); err != nil || text != defaultText || p.Default != "allow-internet" {
			t.Errorf("get the built-in: %+v %q %v", p, text, err)
		}
		l.end()
		k.set(func() { clear(k.policies) }) // the host restarts
		l = begin(t, k, path)
		if got := k.names(); got != "school:1 work:1" {
			t.Errorf("the next agent has set %s", got)
		}
		l.users["school"] = []string{"p1", "p2", "p3", "p4", "p5", "p6", "p7"}
		err := l.Delete(t.Context(), "school", "uid/0")
		if fault.Reason(err) != PolicyInUse || !errdefs.IsFailedPrecondition(err) || !strings.Contains(err.Error(), "p1, p2, p3, p4, p5 and 2 more") {
			t.Errorf("delete one that phones have: %v", err)
		}
		if err := l.Delete(t.Context(), "work", "uid/0"); err != nil || l.has("work") || !l.has("school") || k.names() != "school:1" {
			t.Errorf("delete: %v; the kernel has %s", err, k.names())
		}
		var names []string
		for _, p := range l.List() {
			names = append(names, p.Name)
		}
		if want := []string{netpolicy.DefaultPolicy, "school"}; !slices.Equal(names, want) {
			t.Errorf("list %v, want %v", names, want)
		}
		want := []string{
			"change=put policy=school requested_by=uid/0 rules=2", "change=put policy=work requested_by=uid/0 rules=1",
			"change=put policy=school requested_by=uid/0 rules=1", "change=deleted policy=work requested_by=uid/0",
		}
		if got := l.events(event.PolicyChanged); !slices.Equal(got, want) {
			t.Errorf("events %q, want %q", got, want)
		}
	})
}

func TestPoliciesThatAreRefused(t *testing.T) {
	inBubble(t, func(t *testing.T, k *kernel, path string) {
		l := begin(t, k, path)
		defer l.end()
		put := func(name, text string) error { _, err := l.Put(t.Context(), name, text, "uid/0"); return err }
		get := func(name string) error { _, _, err := l.Get(name); return err }
		for name, tt := range map[string]struct {
			err    error
			reason string
		}{
			"no name":           {put("", "a"), fault.InvalidField},
			"capitals":          {put("School", "a"), fault.InvalidField},
			"path":              {put("../x", "a"), fault.InvalidField},
			"long":              {put(strings.Repeat("a", 64), "a"), fault.InvalidField},
			"built in":          {put(netpolicy.DefaultPolicy, "a"), fault.InvalidField},
			"no policy":         {put("school", "a\nwrong"), BadPolicy},
			"delete nothing":    {l.Delete(t.Context(), "school", "uid/0"), fault.NoSuchPolicy},
			"delete a built-in": {l.Delete(t.Context(), netpolicy.DefaultPolicy, "uid/0"), fault.InvalidField},
			"get nothing":       {get("school"), fault.NoSuchPolicy},
		} {
			if fault.Reason(tt.err) != tt.reason {
				t.Errorf("%s: %v, want %s", name, tt.err, tt.reason)
			}
		}
		if err := put("school", "a\nwrong"); err == nil || err.Error() != `line 2: "wrong" is no rule` {
			t.Errorf("what is wrong with a policy: %v", err)
		}
		if k.names() != "" || l.has("school") {
			t.Errorf("the kernel has %s", k.names())
		}
	})
}

// TestPolicyThatTheKernelRefuses is stored, told, tried again with more and more time between, and by the next agent.
func TestPolicyThatTheKernelRefuses(t *testing.T) {
	inBubble(t, func(t *testing.T, k *kernel, path string) {
		l := begin(t, k, path)
		defer func() { l.end() }()
		l.put("school", "a")
		k.set(func() { k.fail, k.calls = fmt.Errorf("map: no memory: %w", errdefs.ErrResourceExhausted), nil })
		p, err := l.Put(t.Context(), "school", "b\nc", "uid/0")
		if fault.Reason(err) != fault.NetworkFailed || !errdefs.IsUnavailable(err) || p.Problem != "map: no memory" || p.Rules != 2 {
			t.Errorf("put: %+v %v", p, err)
		}
		if k.names() != "school:1" {
			t.Errorf("the kernel has %s", k.names())
		}
		if want := []string{"school: map: no memory"}; !slices.Equal(l.told(), want) {
			t.Errorf("told problems %q, want %q", l.told(), want)
		}
		time.Sleep(10 * time.Minute)
		var n int
		k.set(func() { n = len(k.calls) })
		if n < 10 || n > 20 {
			t.Errorf("%d tries in ten minutes", n)
		}
		k.set(func() { k.fail = nil })
		time.Sleep(time.Minute)
		if p := l.List()[1]; k.names() != "school:2" || p.Problem != "" {
			t.Errorf("with memory again the kernel has %s (%+v)", k.names(), p)
		}
		if len(l.told()) != 0 {
			t.Errorf("told problems %q of policies that are in force", l.told())
		}
		k.set(func() { k.fail = errors.New("no") })
		if err := l.Delete(t.Context(), "school", "uid/0"); fault.Reason(err) != fault.NetworkFailed || l.has("school") {
			t.Errorf("delete: %v", err)
		}
		if want := []string{"school: no"}; !slices.Equal(l.told(), want) {
			t.Errorf("told problems %q, want %q", l.told(), want)
		}
		l.end()
		k.set(func() { k.fail = nil })
		l = begin(t, k, path)
		if k.names() != "" || len(l.List()) != 1 {
			t.Errorf("the next agent leaves %s in the kernel, and lists %+v", k.names(), l.List())
		}
		if len(l.told()) != 0 {
			t.Errorf("told problems %q of policies that are gone", l.told())
		}
	})
}

// TestCallerWhoGoesAway ends a call while the kernel takes the policy: it is in force all the same.
func TestCallerWhoGoesAway(t *testing.T) {
	inBubble(t, func(t *testing.T, k *kernel, path string) {
		l := begin(t, k, path)
		defer l.end()
		k.set(func() { k.hang = true })
		ctx, cancel := context.WithCancel(t.Context())
		ended := make(chan error)
		go func() { _, err := l.Put(ctx, "school", "a", "uid/0"); ended <- err }()
		synctest.Wait()
		cancel()
		synctest.Wait()
		k.set(func() { k.hang = false })
		if err := <-ended; fault.Reason(err) != fault.NetworkFailed {
			t.Errorf("a kernel that hangs: %v", err)
		}
		time.Sleep(time.Minute)
		if k.names() != "school:1" {
			t.Errorf("the kernel has %q", k.names())
		}
	})
}

// TestPolicyThatCannotBeRead is told and left alone, with its phones as they are.
func TestPolicyThatCannotBeRead(t *testing.T) {
	inBubble(t, func(t *testing.T, k *kernel, path string) {
		l := begin(t, k, path)
		l.put("school", "a")
		err := l.db.Update(func(tx *store.Tx) error {
			return errors.Join(table.Put(tx, []byte("odd"), stored{Text: "wrong"}), tx.Bucket(store.Policies).Put([]byte("broken"), []byte("{")))
		})
		if err != nil {
			t.Fatal(err)
		}
		l.end()
		l = begin(t, k, path)
		defer l.end()
		var problems []string
		for _, p := range l.List() {
			if p.Problem != "" {
				problems = append(problems, p.Name)
			}
		}
		if want := []string{"broken", "odd"}; !slices.Equal(problems, want) || k.names() != "school:1" {
			t.Errorf("problems %v, want %v; the kernel has %s", problems, want, k.names())
		}
		if len(l.told()) != 2 || !strings.HasPrefix(l.told()[0], "broken: cannot be read: ") || !strings.HasPrefix(l.told()[1], "odd: cannot be read: ") {
			t.Errorf("told problems %q, want those of broken and odd", l.told())
		}
		if p := l.put("broken", "b"); p.Problem != "" {
			t.Errorf("put in its place: %+v", p)
		}
		if len(l.told()) != 1 || !strings.HasPrefix(l.told()[0], "odd: ") {
			t.Errorf("told problems %q, want that of odd alone", l.told())
		}
	})
}

func TestOpenNeedsItsParts(t *testing.T) {
	if _, err := Open(t.Context(), Config{}); !errdefs.IsInvalidArgument(err) {
		t.Errorf("%v", err)
	}
}
