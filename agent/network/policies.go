package network

import (
	"context"
	"crypto/sha256"
	"errors"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/containerd/errdefs"

	"github.com/phonehost/phonehost/agent/event"
	"github.com/phonehost/phonehost/agent/fault"
	"github.com/phonehost/phonehost/agent/phone"
	"github.com/phonehost/phonehost/agent/store"
	"github.com/phonehost/phonehost/netpolicy"
	"github.com/phonehost/phonehost/netpolicy/policy"
)

const (
	// MaxText is how many bytes a policy's text may have.
	MaxText = 4 << 20
	// MaxPolicies is how many policies the host keeps, beside netpolicy.DefaultPolicy.
	MaxPolicies = 1000
	// defaultText is the text of netpolicy.DefaultPolicy.
	defaultText = "default allow-internet\n"
	// setTime bounds how long a policy may take into the kernel.
	setTime = 30 * time.Second
	// maxNamed is how many users of a policy a refusal names.
	maxNamed = 5
)

// Policy is a policy without its rules.
type Policy struct {
	// Name of the policy.
	Name string
	// Default is what happens to flows that no rule decides: "allow-internet" or "deny-all".
	Default string
	// Rules is how many rules it has.
	Rules int
	// UpdateTime is when it was put last, and UpdatedBy the identity that did; zero for netpolicy.DefaultPolicy.
	UpdateTime time.Time
	UpdatedBy  string
	// SHA256 is the digest of its text.
	SHA256 [sha256.Size]byte
	// Problem is why the kernel does not have it, or still has it; empty where all is as it should be.
	Problem string
}

// stored is a policy in the database.
type stored struct {
	// Text is the policy as it was put.
	Text string `json:"text"`
	// UpdateTime and UpdatedBy are when and by whom it was.
	UpdateTime time.Time `json:"update_time"`
	UpdatedBy  string    `json:"updated_by"`
	// Deleting is whether it goes as soon as the kernel has let go of it.
	Deleting bool `json:"deleting,omitempty"`
}

// table is the bucket of the policies.
var table = store.Table[stored]{Bucket: store.Policies, What: "network policy"}

// known is what the Manager keeps in memory of a policy that is stored.
type known struct {
	Policy
	deleting bool
	// inForce is whether the kernel has what is stored; fails counts the tries in a row that failed.
	inForce bool
	fails   int
}

// describe says what a text is.
func describe(name, text string, p policy.Policy) Policy {
	return Policy{Name: name, Default: defaultName(p.Default), Rules: len(p.Rules), SHA256: sha256.Sum256([]byte(text))}
}

// defaultName is a default as policies write it.
func defaultName(d policy.Default) string {
	if d == policy.DenyAll {
		return "deny-all"
	}
	return "allow-internet"
}

// parse reads a policy's text; the error is a fault with reason BAD_POLICY.
func (m *Manager) parse(text string) (policy.Policy, error) {
	p, err := m.cfg.Parse([]byte(text))
	if err != nil {
		return policy.Policy{}, fault.New(errdefs.ErrInvalidArgument, BadPolicy, "%s", fault.Readable(fault.Words(err)))
	}
	return p, nil
}

// Has tells, within a transaction, whether a phone can be given a policy.
func Has(tx *store.Tx, name string) (bool, error) {
	s, err := table.Get(tx, []byte(name))
	if errdefs.IsNotFound(err) {
		return false, nil
	}
	return err == nil && !s.Deleting, err
}

// Put makes a policy, or gives one that is there another text, for all its phones at once. It is stored before the kernel has it, and the
// call waits for the kernel. Errors: faults with reason INVALID_FIELD, BAD_POLICY, TOO_MANY_POLICIES, after which nothing has changed;
// NETWORK_FAILED for one that is stored and could not be put in force yet.
func (m *Manager) Put(ctx context.Context, name, text, by string) (Policy, error) {
	if err := m.checkName("start.name", name); err != nil {
		return Policy{}, err
	}
	p, err := m.parse(text)
	if err != nil {
		return Policy{}, err
	}
	done, err := m.takeTurn(ctx)
	if err != nil {
		return Policy{}, err
	}
	defer done()
	d := describe(name, text, p)
	d.UpdateTime, d.UpdatedBy = m.cfg.now(), by
	if err := m.cfg.DB.Update(func(tx *store.Tx) error { return m.put(tx, text, d) }); err != nil {
		return Policy{}, err
	}
	return m.answer(name, m.set(ctx, name, p))
}

// put is the transaction of Put.
func (m *Manager) put(tx *store.Tx, text string, d Policy) error {
	before, err := table.Get(tx, []byte(d.Name)) // one that cannot be read is replaced
	if err == nil && !before.Deleting && before.Text == text {
		return nil // the same again
	}
	if errdefs.IsNotFound(err) && tx.Bucket(store.Policies).Stats().KeyN >= MaxPolicies {
		return fault.New(errdefs.ErrResourceExhausted, TooManyPolicies, "this host has %d policies: delete one that no phone has", MaxPolicies)
	}
	tx.OnCommit(func() { m.remember(known{Policy: d}) })
	event := m.changed(d.Name, "put", d.UpdatedBy)
	event.Attributes["rules"], event.Attributes["sha256"] = strconv.Itoa(d.Rules), hexOf(d.SHA256)
	if err := m.cfg.Journal.Append(tx, event); err != nil {
		return err
	}
	return table.Put(tx, []byte(d.Name), stored{Text: text, UpdateTime: d.UpdateTime, UpdatedBy: d.UpdatedBy})
}

// Delete removes a policy that no phone has. Errors: faults with reason NO_SUCH_POLICY, POLICY_IN_USE, INVALID_FIELD for one that is built
// in, NETWORK_FAILED for one that no phone can be given any more and that the kernel still has.
func (m *Manager) Delete(ctx context.Context, name, by string) error {
	if err := m.checkName("name", name); err != nil {
		return err
	}
	done, err := m.takeTurn(ctx)
	if err != nil {
		return err
	}
	defer done()
	err = m.cfg.DB.Update(func(tx *store.Tx) error {
		s, err := table.Get(tx, []byte(name))
		if errdefs.IsNotFound(err) {
			return noSuchPolicy(name)
		}
		if err != nil || s.Deleting {
			return err
		}
		if users := m.cfg.Users(tx, name); len(users) > 0 {
			return inUse(name, users)
		}
		tx.OnCommit(func() { m.marked(name) })
		s.Deleting = true
		return errors.Join(m.cfg.Journal.Append(tx, m.changed(name, "deleted", by)), table.Put(tx, []byte(name), s))
	})
	if err != nil {
		return err
	}
	return m.drop(ctx, name)
}

// inUse is the refusal to delete a policy that phones have.
func inUse(name string, users []string) error {
	named := strings.Join(users[:min(len(users), maxNamed)], ", ")
	if n := len(users) - maxNamed; n > 0 {
		named += " and " + strconv.Itoa(n) + " more"
	}
	return fault.New(errdefs.ErrFailedPrecondition, PolicyInUse, "policy %s is the policy of %s: assign them another one first", name, named)
}

// checkName refuses what cannot be the name of a policy that is put or deleted.
func (m *Manager) checkName(field, name string) error {
	if err := phone.CheckPolicyName(field, name); err != nil {
		return err
	}
	if name == netpolicy.DefaultPolicy {
		return fault.Field(field, "%q is built in and cannot be changed", name)
	}
	return nil
}

func noSuchPolicy(name string) error {
	return fault.New(errdefs.ErrNotFound, fault.NoSuchPolicy, "no network policy %q on this host", fault.Clip(name))
}

// List returns all policies in the order of their names.
func (m *Manager) List() []Policy {
	m.mu.Lock()
	defer m.mu.Unlock()
	all := []Policy{describe(netpolicy.DefaultPolicy, defaultText, policy.Policy{})}
	for _, k := range m.policies {
		all = append(all, k.Policy)
	}
	slices.SortFunc(all, func(a, b Policy) int { return strings.Compare(a.Name, b.Name) })
	return all
}

// Get returns a policy and its text; a fault with reason NO_SUCH_POLICY if there is none.
func (m *Manager) Get(name string) (Policy, string, error) {
	if name == netpolicy.DefaultPolicy {
		return describe(name, defaultText, policy.Policy{}), defaultText, nil
	}
	var s stored
	var d Policy
	err := m.cfg.DB.View(func(tx *store.Tx) (err error) {
		s, err = table.Get(tx, []byte(name))
		return err
	})
	if errdefs.IsNotFound(err) {
		return Policy{}, "", noSuchPolicy(name)
	}
	if err == nil {
		d, err = m.answer(name, nil)
	}
	return d, s.Text, err
}

// answer returns what is known of a policy, beside an error.
func (m *Manager) answer(name string, err error) (Policy, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if k := m.policies[name]; k != nil {
		return k.Policy, err
	}
	return Policy{}, cmpOr(err, noSuchPolicy(name))
}

func cmpOr(err, otherwise error) error {
	if err != nil {
		return err
	}
	return otherwise
}

// remember is the commit hook of what was put.
func (m *Manager) remember(k known) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.policies[k.Name] = &k
}

// marked is the commit hook of what is to be deleted.
func (m *Manager) marked(name string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if k := m.policies[name]; k != nil {
		k.deleting, k.inForce = true, false
	}
}

// changed is the event of a policy that was changed.
func (m *Manager) changed(name, change, by string) event.Event {
	return event.Event{
		Kind: event.PolicyChanged, Message: "network policy " + name + " was " + change,
		Attributes: map[string]string{"policy": name, "change": change, "requested_by": by},
	}
}

// load reads the policies of the database into memory, and returns what they say. One that this release cannot read is told and left.
func (m *Manager) load() (map[string]policy.Policy, error) {
	say := map[string]policy.Policy{}
	err := m.cfg.DB.View(func(tx *store.Tx) error {
		for e := range table.All(tx) {
			k := known{Policy: Policy{Name: e.Key}, deleting: e.Value.Deleting}
			p, err := policy.Policy{}, e.Err
			if err == nil && !k.deleting {
				p, err = m.parse(e.Value.Text)
			}
			if err != nil {
				k.Problem = "cannot be read: " + fault.Readable(fault.Words(err))
				m.cfg.Logger.Error("network policy not read; its phones keep the rules that they have", "policy", e.Key, "error", err)
			} else {
				k.Policy = describe(e.Key, e.Value.Text, p)
				k.UpdateTime, k.UpdatedBy = e.Value.UpdateTime, e.Value.UpdatedBy
				say[e.Key] = p
			}
			m.policies[e.Key] = &k
		}
		return nil
	})
	return say, err
}

// setAll puts all policies in force, as an agent that starts does.
func (m *Manager) setAll(ctx context.Context, say map[string]policy.Policy) {
	for _, name := range slices.Sorted(maps.Keys(say)) {
		// Errors are kept with the policy and logged.
		if m.policies[name].deleting {
			_ = m.drop(ctx, name)
		} else {
			_ = m.set(ctx, name, say[name])
		}
	}
}

// set has the kernel take a policy. The turn is taken, or nobody else is there yet.
func (m *Manager) set(ctx context.Context, name string, p policy.Policy) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), setTime)
	defer cancel()
	err := m.cfg.Engine.SetPolicy(ctx, name, p)
	m.settled(name, err)
	if err != nil {
		return failed(name, err)
	}
	return nil
}

// drop has the kernel let go of a policy, and then forgets it. The turn is taken, or nobody else is there yet.
func (m *Manager) drop(ctx context.Context, name string) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), setTime)
	defer cancel()
	err := m.cfg.Engine.DropPolicy(ctx, name)
	if err == nil {
		err = m.cfg.DB.Update(func(tx *store.Tx) error {
			tx.OnCommit(func() { m.mu.Lock(); defer m.mu.Unlock(); delete(m.policies, name) })
			return table.Delete(tx, []byte(name))
		})
	}
	if err != nil {
		m.settled(name, err)
		return failed(name, err)
	}
	m.tellProblems()
	return nil
}

// tellProblems tells which policies are not in force as they are stored.
func (m *Manager) tellProblems() {
	if m.cfg.OnProblems == nil {
		return
	}
	m.telling.Lock()
	defer m.telling.Unlock()
	m.cfg.OnProblems(slices.DeleteFunc(m.List(), func(p Policy) bool { return p.Problem == "" }))
}

// failed is the error of what is stored and not in the kernel.
func failed(name string, err error) error {
	return fault.New(errdefs.ErrUnavailable, fault.NetworkFailed, "policy %s: stored, and tried again since the kernel could not be given it yet: %s", name, fault.Readable(fault.Words(err)))
}

// settled keeps how a call of the engine went, tells of it, and has it tried again.
func (m *Manager) settled(name string, err error) {
	m.settle(name, err)
	m.tellProblems()
}

func (m *Manager) settle(name string, err error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	k := m.policies[name]
	if k == nil {
		return
	}
	if err == nil {
		k.inForce, k.Problem, k.fails = true, "", 0
		return
	}
	k.inForce, k.fails = false, k.fails+1
	k.Problem = fault.Readable(fault.Words(err))
	m.cfg.Logger.Warn("network policy is not in the kernel as it is stored; it is tried again", "policy", name, "attempt", k.fails, "error", err)
	select {
	case m.retry <- struct{}{}:
	default:
	}
}
