package e2e

import (
	"context"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strings"
	"sync"
	"testing"
	"time"

	phonehostv1 "github.com/phonehost/phonehost/proto/phonehost/v1"
)

// BenchmarkAppList changes the list of a hundred phones that run, all of its 500 packages, among the new ones an app that all of them have. It measures for
// each phone the time from the request until the kernel refuses what that app sends, as a probe sees it, which asks all phones every millisecond
// or two. What runs of the app is stopped after that, and then the guests' package managers are told; the change before that was told to all of them
// when it begins.
//
// The peer is a host without programs in the kernel, which tells each guest's package manager of that one app, by `ctr task exec ID pm suspend`, 8
// guests at once, and trusts it: the time from the first until each has answered. An iteration is one change of either:
//
//	go test -run '^$' -bench AppList -benchtime 5x ./scripts/e2e
func BenchmarkAppList(b *testing.B) {
	h := newHost(b, fmt.Sprintf("concurrent_boots = %d", stormBoots))
	f, ids := newFleet(h), names(scalePhones)
	apps := f.withApp(h, ids)
	const deny = phonehostv1.AppListMode_APP_LIST_MODE_DENY
	f.put(deny, scaleList("a", false))
	f.assign(ids)
	var kernel, calls, suspended []float64
	told, times := h.telling(), 0
	next := func() {
		times += len(ids)
		h.waitFor("all guests being told", func() bool { return told.reached(b, times) })
	}
	// The phones have just booted, and the host is busy with what follows from that: a first change and its end do not count.
	f.put(deny, scaleList("first", true))
	next()
	f.put(deny, scaleList("a", false))
	next()
	for i := 0; b.Loop(); i++ {
		took, call := f.change(apps, scaleList(fmt.Sprint("b", i), true))
		kernel, calls = append(kernel, took...), append(calls, call)
		next()
		f.put(deny, scaleList(fmt.Sprint("c", i), false))
		apps.want("it is denied no more", false)
		next()
		suspended = append(suspended, h.suspendEach(b, ids, fmt.Sprint("suspend", i), "suspend")...)
		h.suspendEach(b, ids, fmt.Sprint("unsuspend", i), "unsuspend")
	}
	if told.reached(b, times+1) {
		b.Errorf("guests were told %d times, want each once of each change: %d", told.times, times)
	}
	b.ReportMetric(quantile(kernel, 50), "p50_ms")
	b.ReportMetric(quantile(kernel, 99), "p99_ms")
	b.ReportMetric(quantile(calls, 50), "call_ms")
	b.ReportMetric(quantile(suspended, 50), "suspend_p50_ms")
	b.ReportMetric(quantile(suspended, 99), "suspend_p99_ms")
	b.ReportMetric(quantile(kernel, 99)/quantile(suspended, 99), "ratio")
	b.ReportMetric(0, "ns/op")
	f.remove(ids)
}

// change puts a list that denies the app, and returns after how many milliseconds the kernel does in each phone, and the call returned.
func (f *fleet) change(apps *probes, packages []string) (kernel []float64, call float64) {
	f.t.Helper()
	began := time.Now()
	var putting sync.WaitGroup
	var err error
	putting.Go(func() {
		_, err = f.appLists.PutAppList(f.t.Context(), &phonehostv1.PutAppListRequest{Name: "scale", Mode: phonehostv1.AppListMode_APP_LIST_MODE_DENY, Packages: packages})
		call = time.Since(began).Seconds() * 1e3
	})
	left := make([]int, len(apps.ids)) // whose app is not denied yet
	for i := range left {
		left[i] = i
	}
	tick := time.NewTicker(time.Millisecond) // what asks without a pause takes the agent's processor
	defer tick.Stop()
	for deadline := began.Add(time.Minute); len(left) > 0 && time.Now().Before(deadline); <-tick.C {
		still := left[:0]
		for _, i := range left {
			if apps.denied(i) {
				kernel = append(kernel, time.Since(began).Seconds()*1e3)
			} else {
				still = append(still, i)
			}
		}
		left = still
	}
	putting.Wait()
	if err != nil || len(left) > 0 {
		f.t.Fatalf("change a list: %v; the app is not denied on %d phones", err, len(left))
	}
	return kernel, call
}

// telling counts how often the agent has told a guest's package manager something, by its log.
type telling struct {
	log   *os.File
	rest  string // a line that is not complete yet
	times int
}

// telling begins to count.
func (h *host) telling() *telling {
	h.t.Helper()
	log, err := os.Open(h.path("agent.log"))
	if err != nil {
		h.t.Fatal(err)
	}
	h.t.Cleanup(func() { log.Close() })
	return &telling{log: log}
}

// reached tells whether it was told so many times.
func (c *telling) reached(t testing.TB, times int) bool {
	t.Helper()
	text, err := io.ReadAll(c.log) // what is new
	if err != nil {
		t.Fatal(err)
	}
	lines := strings.SplitAfter(c.rest+string(text), "\n")
	last := len(lines) - 1
	c.rest = lines[last]
	for _, line := range lines[:last] {
		if strings.Contains(line, `msg="package manager told"`) {
			c.times++
		}
	}
	return c.times >= times
}

// suspendEach has ctr run the package manager in each guest, 8 at once, and returns after how many milliseconds each had done what it was told.
func (h *host) suspendEach(b *testing.B, ids []string, name, verb string) (took []float64) {
	b.Helper()
	var mu sync.Mutex
	began := time.Now()
	err := eachOf(b.Context(), ids, stormBoots, func(ctx context.Context, id string) error {
		args := []string{"--address", h.containerd.Address, "--namespace", "phonehost", "task", "exec", "--exec-id", name, id, "pm", verb, "--user", "0", scaleApp}
		out, err := exec.CommandContext(ctx, "ctr", args...).CombinedOutput()
		if err != nil {
			return fmt.Errorf("ctr %v: %w\n%s", args, err, out)
		}
		mu.Lock()
		defer mu.Unlock()
		took = append(took, time.Since(began).Seconds()*1e3)
		return nil
	})
	if err != nil {
		b.Fatal(err)
	}
	return took
}
