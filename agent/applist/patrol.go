package applist

import (
	"context"
	"time"
)

// patrolTime is the time between two looks at what runs in the phones, on a host whose kernel may let an app start that a list denies. A look reads the
// status of every thread of a phone, 25 µs each: with a hundred phones of 2000 threads it is a twelfth of a processor.
const patrolTime = time.Minute

// certain tells whether no launch that is denied can pass.
func (s Status) certain() bool { return s.Launch && (s.Tier == "A" || s.Tier == "B") }

// patrol ends what runs and may not on hosts where a launch can pass: in tier D every one, in tier C on a preemptible kernel one of many. It is no
// refusal, and no status counts it as one.
func (m *Manager) patrol(ctx context.Context) {
	ticker := time.NewTicker(patrolTime)
	defer ticker.Stop()
	for {
		select {
		case <-ticker.C:
		case <-ctx.Done():
			return
		}
		if m.cfg.Enforcer.Status().certain() {
			continue
		}
		for _, snap := range m.phones.List() {
			if snap.InitPID == 0 || snap.Record.Spec.AppList == "" {
				continue
			}
			if w := m.wanted(snap); w != nil {
				m.recheck(ctx, w)
			}
		}
	}
}

// recheck applies a phone's list once more, and looks at all that runs. What fails is kept with the phone, and tried again.
func (m *Manager) recheck(ctx context.Context, w *ward) {
	done, err := take(ctx, w.turn)
	if err != nil {
		return
	}
	defer done()
	w.killed = nil
	if err := m.applyNow(ctx, w); err != nil {
		m.signal(w.wake)
	}
}
