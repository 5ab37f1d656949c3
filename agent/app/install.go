package app

import (
	"context"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"os"
	"regexp"
	"strconv"
	"strings"
	"time"

	"github.com/containerd/errdefs"

	"github.com/phonehost/phonehost/agent/job"
	"github.com/phonehost/phonehost/agent/operation"
)

// Options say how an app is installed.
type Options struct {
	// Downgrade lets an older version replace a newer one.
	Downgrade bool `json:"downgrade,omitempty"`
	// Grant grants the permissions that the app would ask for when it runs.
	Grant bool `json:"grant,omitempty"`
	// TestOnly takes APKs that are for tests only.
	TestOnly bool `json:"test_only,omitempty"`
}

// flags are `pm install`'s. -r has been the default since Android 9 and is harmless there.
func (o Options) flags() []string {
	flags := []string{"-r"}
	for _, f := range []struct {
		set  bool
		flag string
	}{{o.Downgrade, "-d"}, {o.Grant, "-g"}, {o.TestOnly, "-t"}} {
		if f.set {
			flags = append(flags, f.flag)
		}
	}
	return flags
}

// installation is what an operation of the kind operation.InstallApp is stored as.
type installation struct {
	Set     Set     `json:"set"`
	Options Options `json:"options"`
}

// InstallPayload returns the payload of an installation, and the fingerprint by which a retry is known, whose set has another name.
func InstallPayload(set Set, o Options) (payload any, fingerprint string) {
	var digests []string
	for _, a := range set.APKs {
		digests = append(digests, hex.EncodeToString(a.SHA256))
	}
	return installation{set, o}, fmt.Sprintf("%v %+v", digests, o)
}

// Names returns whether a directory of the spool is named by one of these payloads of installations.
func Names(payloads []json.RawMessage) func(name string) bool {
	names := make(map[string]bool, len(payloads))
	for _, p := range payloads {
		var q installation
		if json.Unmarshal(p, &q) == nil {
			names[q.Set.Name] = true
		}
	}
	return func(name string) bool { return names[name] }
}

// installTime bounds one installation: the guest compiles what it installs.
const installTime = 20 * time.Minute

// Installer does jobs of the kind operation.InstallApp. An installation that was interrupted is done again, after what is left of it in the
// guest has been ended: its session goes with the process that began it.
func (m *Manager) Installer() job.Handler {
	return job.Handler{
		Again: true,
		Do: func(ctx context.Context, w job.Work) (*operation.Output, error) {
			q, err := decode[installation](w)
			if err != nil {
				return nil, err
			}
			ctx, cancel := context.WithTimeout(ctx, installTime)
			defer cancel()
			if err := m.clear(ctx, w); err != nil {
				return nil, err
			}
			if len(q.Set.APKs) == 1 {
				return nil, m.installOne(ctx, w, q)
			}
			return nil, m.installSet(ctx, w, q)
		},
		Clean: func(payload json.RawMessage) {
			var q installation
			if json.Unmarshal(payload, &q) == nil {
				_ = m.Spool.Remove(q.Set) // Collect tries again with the next agent
			}
		},
	}
}

// decode reads a job's payload.
func decode[T any](w job.Work) (q T, err error) {
	if err := json.Unmarshal(w.Payload, &q); err != nil {
		return q, fmt.Errorf("decode the payload of %s: %w: %w", w.OperationID, err, errdefs.ErrDataLoss)
	}
	return q, nil
}

// installOne installs an app of one APK.
func (m *Manager) installOne(ctx context.Context, w job.Work, q installation) error {
	f, err := m.Spool.Open(q.Set, 0)
	if err != nil {
		return err
	}
	defer f.Close()
	w.Progress("installing")
	args := append([]string{"install"}, q.Options.flags()...)
	said, code, err := m.run(ctx, at(w), f, packages, append(args, "-S", strconv.FormatUint(q.Set.APKs[0].Size, 10))...)
	return outcome(w.PhoneID, "pm install", said, code, err)
}

// outcome reads the answer of a command of pm's that says Success.
func outcome(id, what, said string, code uint32, err error) error {
	if err != nil {
		return err
	}
	if code != 0 || !strings.HasPrefix(said, "Success") && !strings.Contains(said, "\nSuccess") {
		return refused(id, what, said, code)
	}
	return nil
}

// sessionPattern is what `pm install-create` says.
var sessionPattern = regexp.MustCompile(`Success: created install session \[(\d+)\]`)

// installSet installs a base APK and its splits in a session of the guest's package manager.
func (m *Manager) installSet(ctx context.Context, w job.Work, q installation) error {
	args := append([]string{"install-create"}, q.Options.flags()...)
	said, code, err := m.run(ctx, at(w), nil, packages, append(args, "-S", strconv.FormatUint(q.Set.bytes(), 10))...)
	if err != nil {
		return err
	}
	match := sessionPattern.FindStringSubmatch(said)
	if match == nil {
		return refused(w.PhoneID, "pm install-create", said, code)
	}
	session := match[1]
	for i := range q.Set.APKs {
		w.Progress(fmt.Sprintf("writing APK %d of %d", i+1, len(q.Set.APKs)))
		if err := m.writeSession(ctx, w, session, q.Set, i); err != nil {
			m.abandon(ctx, w, session)
			return err
		}
	}
	w.Progress("installing")
	said, code, err = m.run(ctx, at(w), nil, packages, "install-commit", session)
	if err := outcome(w.PhoneID, "pm install-commit", said, code, err); err != nil {
		m.abandon(ctx, w, session)
		return err
	}
	return nil
}

// writeSession writes one APK into a session.
func (m *Manager) writeSession(ctx context.Context, w job.Work, session string, set Set, i int) error {
	f, err := m.Spool.Open(set, i)
	if err != nil {
		return err
	}
	defer f.Close()
	return m.write(ctx, w, session, i, set.APKs[i].Size, f)
}

func (m *Manager) write(ctx context.Context, w job.Work, session string, i int, size uint64, f *os.File) error {
	said, code, err := m.run(ctx, at(w), f, packages, "install-write", "-S", strconv.FormatUint(size, 10), session, strconv.Itoa(i)+".apk", "-")
	return outcome(w.PhoneID, "pm install-write", said, code, err)
}

// abandonTime bounds the clearing up after an installation that failed.
const abandonTime = 10 * time.Second

// abandon drops a session. A guest that has ended drops it by itself when it starts.
func (m *Manager) abandon(ctx context.Context, w job.Work, session string) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), abandonTime)
	defer cancel()
	_, _, _ = m.run(ctx, at(w), nil, packages, "install-abandon", session)
}
