package app

import (
	"context"
	"slices"
	"strings"
	"time"

	"github.com/phonehost/phonehost/agent/fault"
	"github.com/phonehost/phonehost/agent/job"
	"github.com/phonehost/phonehost/agent/operation"
)

// target is what the other operations are stored as: an app.
type target struct {
	Package string `json:"package"`
	// KeepData leaves the app's data; UninstallApp only.
	KeepData bool `json:"keep_data,omitempty"`
}

// Payload is the payload of an operation on an app that is there. keepData is for operation.UninstallApp.
func Payload(pkg string, keepData bool) any { return target{pkg, keepData} }

// manageTime bounds the work of the guest's managers on an app that is there.
const manageTime = 2 * time.Minute

// handler does a job on an app that is there. What they do may be done again: an app that is gone, runs or does not run already is what
// was asked for; so a part that was interrupted is.
func handler(clear func(ctx context.Context, w job.Work) error, do func(ctx context.Context, w job.Work, q target) error) job.Handler {
	return job.Handler{
		Again: true,
		Do: func(ctx context.Context, w job.Work) (*operation.Output, error) {
			q, err := decode[target](w)
			if err != nil {
				return nil, err
			}
			ctx, cancel := context.WithTimeout(ctx, manageTime)
			defer cancel()
			if err := clear(ctx, w); err != nil {
				return nil, err
			}
			return nil, do(ctx, w, q)
		},
	}
}

// Uninstaller does jobs of the kind operation.UninstallApp.
func (m *Manager) Uninstaller() job.Handler {
	return handler(m.clear, func(ctx context.Context, w job.Work, q target) error {
		args := []string{"uninstall"}
		if q.KeepData {
			args = append(args, "-k")
		}
		said, code, err := m.run(ctx, at(w), nil, packages, append(args, q.Package)...)
		err = outcome(w.PhoneID, "pm uninstall", said, code, err)
		if w.Again && fault.Reason(err) == Refused && m.gone(ctx, w.PhoneID, q.Package) {
			return nil // by the agent that died: the guest refuses to remove what is not there
		}
		return err
	})
}

// gone reports whether a phone surely has no app of that name.
func (m *Manager) gone(ctx context.Context, id, pkg string) bool {
	apps, err := m.List(ctx, id, All)
	return err == nil && !slices.ContainsFunc(apps, func(a Installed) bool { return a.Package == pkg })
}

// Starter does jobs of the kind operation.StartApp. A package alone stands for the activity that a launcher would start
// (Intent.parseCommandArgs).
func (m *Manager) Starter() job.Handler {
	return handler(m.clear, func(ctx context.Context, w job.Work, q target) error {
		said, code, err := m.run(ctx, at(w), nil, activities, "start", q.Package)
		return managed(w.PhoneID, "am start", said, code, err)
	})
}

// Stopper does jobs of the kind operation.StopApp. An app that does not run is stopped; am says nothing of one that is not there.
func (m *Manager) Stopper() job.Handler {
	return handler(m.clear, func(ctx context.Context, w job.Work, q target) error {
		said, code, err := m.run(ctx, at(w), nil, activities, "force-stop", q.Package)
		return managed(w.PhoneID, "am force-stop", said, code, err)
	})
}

// managed reads the answer of the activity manager, which says an error in words, up to Android 11 with exit code 0.
func managed(id, what, said string, code uint32, err error) error {
	if err != nil {
		return err
	}
	for line := range strings.Lines(said) {
		if strings.HasPrefix(line, "Error") || strings.HasPrefix(line, "Exception") || strings.HasPrefix(line, "java.lang.") {
			return refused(id, what, strings.TrimSpace(line), code)
		}
	}
	if code != 0 {
		return refused(id, what, said, code)
	}
	return nil
}
