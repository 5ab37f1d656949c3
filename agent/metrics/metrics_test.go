package metrics

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"sort"
	"strings"
	"testing"
	"time"

	"github.com/containerd/errdefs"
	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/client_golang/prometheus/testutil"
	dto "github.com/prometheus/client_model/go"
	"go.uber.org/goleak"

	"github.com/phonehost/phonehost/agent/health"
	"github.com/phonehost/phonehost/agent/nameserver"
	"github.com/phonehost/phonehost/agent/network"
	"github.com/phonehost/phonehost/agent/stream"
	"github.com/phonehost/phonehost/netpolicy/resolver"
	"github.com/phonehost/phonehost/runtime/container"
)

var update = flag.Bool("update", false, "write the table of docs/metrics.md")

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// fixed returns metrics with sources that never change.
func fixed(t *testing.T) *Metrics {
	t.Helper()
	register := health.New(nil)
	register.Set("disk-low", health.Warning, "2 GiB left")
	register.Set("containerd-lost", health.Error, "no answer")
	m, err := New(Config{
		Version: "1.2.3", Start: time.UnixMilli(1_700_000_000_500),
		PhonesByStatus: func() [6]int { return [6]int{1, 2, 3, 4, 5, 6} },
		PhonesFrozen:   func() int { return 2 },
		BootQueue:      func() (booting, queued int) { return 3, 40 },
		DataSpace: func() (container.DataSpace, error) {
			return container.DataSpace{Volumes: 4, PromisedBytes: 400, AllocatedBytes: 40, HostBytes: 1000, HostFreeBytes: 100}, nil
		},
		Network: func() (network.Totals, error) {
			return network.Totals{Packets: [2]uint64{1, 2}, Bytes: [2]uint64{3, 4}, Dropped: map[string]uint64{"RULE": 5}, Flows: 6}, nil
		},
		NameServer: func() nameserver.Totals {
			return nameserver.Totals{Up: true, Counters: resolver.Counters{
				Queries: 100, Answered: 60, Refused: 11, Rebinding: 2, Unsupported: 3, Unknown: 4, Failed: 20, Limited: 5, Hits: 40, Upstream: 50,
				UpstreamErrors: 25, Opened: 70, Protected: 6,
			}}
		},
		AppLists: func() AppLists {
			return AppLists{Tier: "C", Denied: map[string]uint64{"launch": 12, "network": 3}}
		},
		Streams: func() stream.Totals {
			return stream.Totals{Viewers: 7, Levels: 2, Packets: 100, Bytes: 2000, Skipped: 3, KeyFrames: 4, InputEvents: 9}
		},
		DisplaysConnected: func() int { return 3 },
		ContainerdUp:      func() bool { return false },
		Health:            register,
	})
	if err != nil {
		t.Fatal(err)
	}
	return m
}

func TestValues(t *testing.T) {
	m := fixed(t)
	m.OperationEnded("power_on", "succeeded", 3*time.Second)
	m.OperationEnded("power_on", "failed", 3*time.Second)
	m.OperationEnded("dance", "well", time.Second)
	m.SessionOpened("dial:198.51.100.7:443", "control")
	m.SessionOpened("listen", "media")
	m.SessionClosed("listen", "media")
	m.SessionRefused("listen")
	const want = `
# HELP phonehost_agent_start_time_seconds When the agent started, in seconds since the Unix epoch.
# TYPE phonehost_agent_start_time_seconds gauge
phonehost_agent_start_time_seconds 1.7000000005e+09
# HELP phonehost_app_denials_total Refusals to apps of phones that the agent has read from the kernel, by kind.
# TYPE phonehost_app_denials_total counter
phonehost_app_denials_total{kind="install"} 0
phonehost_app_denials_total{kind="launch"} 12
phonehost_app_denials_total{kind="network"} 3
# HELP phonehost_app_lists_tier 1 for the tier of what the kernel refuses to apps, as was tried last, 0 for the others; all are 0 where it refuses nothing.
# TYPE phonehost_app_lists_tier gauge
phonehost_app_lists_tier{tier="A"} 0
phonehost_app_lists_tier{tier="B"} 0
phonehost_app_lists_tier{tier="C"} 1
phonehost_app_lists_tier{tier="D"} 0
# HELP phonehost_containerd_up Whether containerd answers: 1 or 0.
# TYPE phonehost_containerd_up gauge
phonehost_containerd_up 0
# HELP phonehost_data_allocated_bytes What the data volumes take of the host's disk.
# TYPE phonehost_data_allocated_bytes gauge
phonehost_data_allocated_bytes 40
# HELP phonehost_data_promised_bytes Sum of the sizes of the data volumes.
# TYPE phonehost_data_promised_bytes gauge
phonehost_data_promised_bytes 400
# HELP phonehost_health_warnings Standing warnings, by severity.
# TYPE phonehost_health_warnings gauge
phonehost_health_warnings{severity="error"} 1
phonehost_health_warnings{severity="warning"} 1
# HELP phonehost_name_server_addresses_opened_total Addresses that were opened for a phone, by each name.
# TYPE phonehost_name_server_addresses_opened_total counter
phonehost_name_server_addresses_opened_total 70
# HELP phonehost_name_server_addresses_removed_total Protected addresses that were taken out of answers.
# TYPE phonehost_name_server_addresses_removed_total counter
phonehost_name_server_addresses_removed_total 6
# HELP phonehost_name_server_cache_hits_total Questions that the name server's cache answered.
# TYPE phonehost_name_server_cache_hits_total counter
phonehost_name_server_cache_hits_total 40
# HELP phonehost_name_server_limited_total Questions, packets and connections beyond a phone's rate or share.
# TYPE phonehost_name_server_limited_total counter
phonehost_name_server_limited_total 5
# HELP phonehost_name_server_queries_total Questions of phones to the name server, by result.
# TYPE phonehost_name_server_queries_total counter
phonehost_name_server_queries_total{result="answered"} 60
phonehost_name_server_queries_total{result="failed"} 20
phonehost_name_server_queries_total{result="rebinding"} 2
phonehost_name_server_queries_total{result="refused"} 11
phonehost_name_server_queries_total{result="unknown_phone"} 4
phonehost_name_server_queries_total{result="unsupported"} 3
# HELP phonehost_name_server_up Whether the phones' name server runs: 1 or 0. Without networks there is none.
# TYPE phonehost_name_server_up gauge
phonehost_name_server_up 1
# HELP phonehost_name_server_upstream_failures_total Questions that an upstream name server did not answer.
# TYPE phonehost_name_server_upstream_failures_total counter
phonehost_name_server_upstream_failures_total 25
# HELP phonehost_name_server_upstream_queries_total Questions that were put to upstream name servers.
# TYPE phonehost_name_server_upstream_queries_total counter
phonehost_name_server_upstream_queries_total 50
# HELP phonehost_network_bytes_total Bytes that passed between phones and the network, by direction.
# TYPE phonehost_network_bytes_total counter
phonehost_network_bytes_total{direction="received"} 4
phonehost_network_bytes_total{direction="sent"} 3
# HELP phonehost_network_flows Live flows of phones.
# TYPE phonehost_network_flows gauge
phonehost_network_flows 6
# HELP phonehost_phones Phones, by status.
# TYPE phonehost_phones gauge
phonehost_phones{status="powered_off"} 6
phonehost_phones{status="running"} 3
phonehost_phones{status="starting"} 5
phonehost_phones{status="stopped"} 2
phonehost_phones{status="stopping"} 4
phonehost_phones{status="unknown"} 1
# HELP phonehost_stream_packets_total Video packets that were handed to viewers' connections.
# TYPE phonehost_stream_packets_total counter
phonehost_stream_packets_total 100
# HELP phonehost_tunnel_refusals_total Peers that were refused at the network doors, by door.
# TYPE phonehost_tunnel_refusals_total counter
phonehost_tunnel_refusals_total{door="dial"} 0
phonehost_tunnel_refusals_total{door="listen"} 1
# HELP phonehost_tunnel_sessions Open sessions of the network doors, by door and kind.
# TYPE phonehost_tunnel_sessions gauge
phonehost_tunnel_sessions{door="dial",kind="control"} 1
phonehost_tunnel_sessions{door="dial",kind="media"} 0
phonehost_tunnel_sessions{door="listen",kind="control"} 0
phonehost_tunnel_sessions{door="listen",kind="media"} 0
`
	if err := testutil.GatherAndCompare(m.registry, strings.NewReader(want), "phonehost_name_server_up", "phonehost_name_server_queries_total", "phonehost_name_server_limited_total",
		"phonehost_name_server_cache_hits_total", "phonehost_name_server_upstream_queries_total", "phonehost_name_server_upstream_failures_total",
		"phonehost_name_server_addresses_opened_total", "phonehost_name_server_addresses_removed_total", "phonehost_agent_start_time_seconds", "phonehost_app_denials_total",
		"phonehost_app_lists_tier", "phonehost_containerd_up",
		"phonehost_data_allocated_bytes", "phonehost_data_promised_bytes", "phonehost_health_warnings", "phonehost_network_bytes_total", "phonehost_network_flows", "phonehost_phones", "phonehost_stream_packets_total", "phonehost_tunnel_refusals_total",
		"phonehost_tunnel_sessions"); err != nil {
		t.Error(err)
	}
	for labels, want := range map[[2]string]float64{{"power_on", "succeeded"}: 1, {"power_on", "failed"}: 1, {"other", "other"}: 1, {"reset", "failed"}: 0} {
		if got := testutil.ToFloat64(m.operations.WithLabelValues(labels[0], labels[1])); got != want {
			t.Errorf("operations %v: %v, want %v", labels, got, want)
		}
	}
	if problems, err := testutil.GatherAndLint(m.registry); err != nil || len(problems) > 0 {
		t.Errorf("lint: %v, %v", problems, err)
	}
}

// table returns the table of docs/metrics.md: every metric of ours with its type, labels and help.
func table(t *testing.T, m *Metrics) string {
	t.Helper()
	families, err := m.registry.Gather()
	if err != nil {
		t.Fatal(err)
	}
	var b strings.Builder
	b.WriteString("| metric | type | labels | meaning |\n|---|---|---|---|\n")
	for _, f := range families {
		if !strings.HasPrefix(f.GetName(), "phonehost_") {
			continue
		}
		fmt.Fprintf(&b, "| `%s` | %s | %s | %s |\n", f.GetName(), strings.ToLower(f.GetType().String()), labels(f), f.GetHelp())
	}
	return b.String()
}

// labels lists a family's labels with their values.
func labels(f *dto.MetricFamily) string {
	values := make(map[string]map[string]bool)
	for _, metric := range f.GetMetric() {
		for _, l := range metric.GetLabel() {
			if values[l.GetName()] == nil {
				values[l.GetName()] = make(map[string]bool)
			}
			values[l.GetName()][l.GetValue()] = true
		}
	}
	var all []string
	for name, set := range values {
		if name == "version" || name == "goversion" {
			all = append(all, "`"+name+"`")
			continue
		}
		var words []string
		for v := range set {
			words = append(words, v)
		}
		sort.Strings(words)
		all = append(all, "`"+name+"`: "+strings.Join(words, ", "))
	}
	sort.Strings(all)
	return strings.Join(all, "; ")
}

func TestDocumentedNames(t *testing.T) {
	path := filepath.Join("..", "..", "docs", "metrics.md")
	doc, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	found := regexp.MustCompile(`(?s)\| metric \|.*?\n(?:\n|$)`)
	want := table(t, fixed(t))
	if *update {
		doc = found.ReplaceAllLiteral(doc, []byte(want+"\n"))
		if err := os.WriteFile(path, doc, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	if diff := cmp.Diff(want+"\n", string(found.Find(doc))); diff != "" {
		t.Errorf("the table of docs/metrics.md differs (-metrics +docs), go test ./agent/metrics -update writes it:\n%s", diff)
	}
}

func TestServe(t *testing.T) {
	path := filepath.Join(t.TempDir(), "metrics.sock")
	// What a dead agent leaves behind is replaced.
	dead, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	dead.(*net.UnixListener).SetUnlinkOnClose(false)
	dead.Close()

	m := fixed(t)
	for range 2 { // the second time after the first has ended
		ctx, cancel := context.WithCancel(t.Context())
		served := make(chan error, 1)
		l, err := listen(path)
		if err != nil {
			t.Fatal(err)
		}
		l.Close() // proves that listen replaces; Serve makes its own
		go func() { served <- m.Serve(ctx, path) }()
		text := get(t, path, served)
		for _, name := range []string{"phonehost_phones{", "go_goroutines", "process_open_fds"} {
			if !strings.Contains(text, name) {
				t.Errorf("no %s in the answer", name)
			}
		}
		if info, err := os.Stat(path); err != nil || info.Mode().Perm() != 0o660 {
			t.Errorf("socket: %v, %v", info, err)
		}
		if err := m.Serve(ctx, path); !errdefs.IsAlreadyExists(err) {
			t.Errorf("a second server on the socket: %v", err)
		}
		cancel()
		if err := <-served; err != nil {
			t.Errorf("Serve: %v", err)
		}
	}
	if err := m.Serve(t.Context(), filepath.Join(path, "nowhere")); err == nil {
		t.Error("no error for a path that cannot be")
	}
}

// get scrapes as soon as the socket is there.
func get(t *testing.T, path string, served <-chan error) string {
	t.Helper()
	client := &http.Client{Transport: &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		for {
			c, err := new(net.Dialer).DialContext(ctx, "unix", path)
			if err == nil {
				return c, nil
			}
			select {
			case err := <-served:
				return nil, fmt.Errorf("Serve ended: %w", err)
			case <-ctx.Done():
				return nil, errors.Join(err, ctx.Err())
			default:
			}
		}
	}, DisableKeepAlives: true}}
	answer, err := client.Get("http://agent/metrics")
	if err != nil {
		t.Fatal(err)
	}
	defer answer.Body.Close()
	b, err := io.ReadAll(answer.Body)
	if err != nil || answer.StatusCode != http.StatusOK {
		t.Fatalf("status %d, %v", answer.StatusCode, err)
	}
	return string(b)
}

func TestNewNeedsSources(t *testing.T) {
	if _, err := New(Config{}); !errdefs.IsInvalidArgument(err) {
		t.Errorf("New without sources: %v", err)
	}
}
