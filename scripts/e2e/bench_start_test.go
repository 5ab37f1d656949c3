package e2e

import (
	"context"
	"testing"
	"time"

	"google.golang.org/protobuf/types/known/durationpb"

	phonehostv1 "github.com/phonehost/phonehost/proto/phonehost/v1"
)

// BenchmarkPowerOn measures the time from the request to power a phone on to the first instruction of its init, and the time that ctr takes
// to create and start the same two containers (the specs of `phonectl spec`) in the same order, on root file systems and a loop device that
// were made ready for it. An iteration is one power-on of each, in turn:
//
//	go test -run '^$' -bench PowerOn -benchtime 20x ./scripts/e2e
func BenchmarkPowerOn(b *testing.B) {
	h := newHost(b)
	h.create("p1")
	h.ctl("off", "--force", "p1")
	peer := h.newCtrPhone("p1")
	if err := peer.prepare(b.Context()); err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() {
		if err := h.removeCtrCgroup(); err != nil {
			b.Error(err)
		}
	})
	f := newFleet(h)
	var ours, theirs, ratios []float64
	for b.Loop() {
		began := time.Now()
		op, err := f.phones.PowerOn(b.Context(), &phonehostv1.PowerOnRequest{PhoneIds: []string{"p1"}})
		if err != nil {
			b.Fatal(err)
		}
		f.finish(op.GetOperation())
		a := firstInstruction(b, h.ctl("logs", "--tail", "20", "p1")).Sub(began)
		h.ctl("off", "--force", "p1")
		began = time.Now()
		log, err := peer.run(b.Context(), "pid 1, started")
		if err != nil {
			b.Fatal(err)
		}
		p := firstInstruction(b, log).Sub(began)
		if err := peer.remove(b.Context()); err != nil {
			b.Fatal(err)
		}
		ours, theirs = append(ours, a.Seconds()*1000), append(theirs, p.Seconds()*1000)
		ratios = append(ratios, a.Seconds()/p.Seconds())
	}
	b.ReportMetric(quantile(ours, 50), "ms")
	b.ReportMetric(quantile(theirs, 50), "ctr_ms")
	b.ReportMetric(quantile(ratios, 50), "ratio")
	b.ReportMetric(0, "ns/op")
}

// BenchmarkReset measures the time from the request to reset a phone that runs until its operation has ended: the new guest has booted, on
// a root file system and data of its own, and the old ones are gone. It is compared in turns with Restart, which is a phone's power-cycle,
// with Restart that does not let the guest shut down first, as Reset does not, and with PowerOff and PowerOn. An iteration is one of each:
//
//	go test -run '^$' -bench Reset -benchtime 15x ./scripts/e2e
func BenchmarkReset(b *testing.B) {
	h := newHost(b)
	h.create("p1", "--property", "debug.testphone.scene=still")
	f := newFleet(h)
	ids := []string{"p1"}
	do := func(request func(context.Context) (*phonehostv1.Operation, error)) float64 {
		b.Helper()
		began := time.Now()
		op, err := request(b.Context())
		if err != nil {
			b.Fatal(err)
		}
		f.finish(op)
		return time.Since(began).Seconds() * 1000
	}
	var reset, restart, atOnce, offOn, ratio, ratioAtOnce []float64
	for b.Loop() {
		restart = append(restart, do(func(ctx context.Context) (*phonehostv1.Operation, error) {
			r, err := f.phones.Restart(ctx, &phonehostv1.RestartRequest{PhoneIds: ids})
			return r.GetOperation(), err
		}))
		reset = append(reset, do(func(ctx context.Context) (*phonehostv1.Operation, error) {
			r, err := f.phones.Reset(ctx, &phonehostv1.ResetRequest{PhoneIds: ids})
			return r.GetOperation(), err
		}))
		atOnce = append(atOnce, do(func(ctx context.Context) (*phonehostv1.Operation, error) {
			r, err := f.phones.Restart(ctx, &phonehostv1.RestartRequest{PhoneIds: ids, Force: true})
			return r.GetOperation(), err
		}))
		off := do(func(ctx context.Context) (*phonehostv1.Operation, error) {
			r, err := f.phones.PowerOff(ctx, &phonehostv1.PowerOffRequest{PhoneIds: ids, Grace: durationpb.New(20 * time.Second)})
			return r.GetOperation(), err
		})
		offOn = append(offOn, off+do(func(ctx context.Context) (*phonehostv1.Operation, error) {
			r, err := f.phones.PowerOn(ctx, &phonehostv1.PowerOnRequest{PhoneIds: ids})
			return r.GetOperation(), err
		}))
		n := len(reset) - 1
		ratio, ratioAtOnce = append(ratio, reset[n]/restart[n]), append(ratioAtOnce, reset[n]/atOnce[n])
	}
	b.ReportMetric(quantile(reset, 50), "ms")
	b.ReportMetric(quantile(restart, 50), "restart_ms")
	b.ReportMetric(quantile(ratio, 50), "ratio")
	b.ReportMetric(quantile(atOnce, 50), "forced_restart_ms")
	b.ReportMetric(quantile(ratioAtOnce, 50), "ratio_forced")
	b.ReportMetric(quantile(offOn, 50), "off_on_ms")
	b.ReportMetric(0, "ns/op")
}
