// Package metrics serves what the agent counts to Prometheus, over HTTP on a Unix socket.
//
// It owns a private registry and the names of all metrics; docs/metrics.md lists them, and a test compares the two. What
// other packages count already is read from them at each scrape; only what happens and is gone (operations that end,
// sessions that come and go) is told to this package. Label sets are closed: no label takes a value out of a request. Its
// one goroutine is the one that calls Serve.
package metrics

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/http"
	"os"
	"runtime"
	"strings"
	"time"

	"github.com/containerd/errdefs"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"github.com/phonehost/phonehost/agent/health"
	"github.com/phonehost/phonehost/agent/nameserver"
	"github.com/phonehost/phonehost/agent/network"
	"github.com/phonehost/phonehost/agent/operation"
	"github.com/phonehost/phonehost/agent/stream"
	phonehostv1 "github.com/phonehost/phonehost/proto/phonehost/v1"
	"github.com/phonehost/phonehost/runtime/container"
)

// Config says what is read at a scrape. All functions are required; they must be fast and are called by many goroutines.
type Config struct {
	// Version of the agent.
	Version string
	// Start is when it started.
	Start time.Time
	// PhonesByStatus counts the phones; its index is the status.
	PhonesByStatus func() [6]int
	// PhonesFrozen counts those that are frozen.
	PhonesFrozen func() int
	// BootQueue counts the phones that boot, and those that wait for a boot slot.
	BootQueue func() (booting, queued int)
	// DataSpace adds up the data volumes. Where it fails their series are left out of the scrape.
	DataSpace func() (container.DataSpace, error)
	// Network adds up what the phones sent, received and were refused; zero where they have no network. Where it fails its series are left out
	// of the scrape.
	Network func() (network.Totals, error)
	// NameServer returns what the phones' name servers counted; zero where there is none.
	NameServer func() nameserver.Totals
	// AppLists returns what the kernel refuses to apps, and has refused.
	AppLists func() AppLists
	// Streams returns what the hub counted.
	Streams func() stream.Totals
	// DisplaysConnected counts the connected displays.
	DisplaysConnected func() int
	// ContainerdUp tells whether containerd answers.
	ContainerdUp func() bool
	// Health is the register of warnings.
	Health *health.Registry
}

// AppLists is what a host's kernel refuses to the apps of phones, and what it has refused.
type AppLists struct {
	// Tier is "A" to "D", or empty where nothing is refused.
	Tier string
	// Denied counts the refusals that the agent has read, by kind: "install", "launch", "network".
	Denied map[string]uint64
}

// Metrics is the registry and what was told to it. Its methods may be called by any goroutine.
type Metrics struct {
	registry   *prometheus.Registry
	operations *prometheus.CounterVec
	durations  *prometheus.HistogramVec
	sessions   *prometheus.GaugeVec
	opened     *prometheus.CounterVec
	refused    *prometheus.CounterVec
	waits      prometheus.Histogram
}

// Values of labels, beside those of a status.
var (
	operationKinds  = kindLabels()
	operationStates = []string{"succeeded", "failed", "aborted"}
	sessionDoors    = []string{"listen", "dial"}
	sessionKinds    = []string{"control", "media"}
	appTiers        = []string{"A", "B", "C", "D"}
	appKinds        = []string{"install", "launch", "network"}
)

// dropReasons are the engine's words for why packets are dropped, by the labels that stand for them.
var dropReasons = reasonLabels()

// reasonLabels takes the reasons from the API, which has those of the kernel's programs below OTHER.
func reasonLabels() map[string]string {
	labels := map[string]string{}
	for n, name := range phonehostv1.DenialReason_name {
		if n > 0 && n < int32(phonehostv1.DenialReason_DENIAL_REASON_OTHER) {
			word := strings.TrimPrefix(name, "DENIAL_REASON_")
			labels[strings.ToLower(word)] = word
		}
	}
	return labels
}

// kindLabels returns the kinds of operations as labels.
func kindLabels() []string {
	var labels []string
	for _, kind := range operation.Kinds() {
		labels = append(labels, kindLabel(kind))
	}
	return labels
}

func kindLabel(kind operation.Kind) string { return strings.ReplaceAll(kind.String(), " ", "_") }

// New returns a registry with all metrics. It returns errdefs.ErrInvalidArgument when a part of the config is missing.
func New(config Config) (*Metrics, error) {
	if config.PhonesByStatus == nil || config.PhonesFrozen == nil || config.BootQueue == nil || config.DataSpace == nil || config.Network == nil || config.NameServer == nil ||
		config.AppLists == nil || config.Streams == nil || config.DisplaysConnected == nil || config.ContainerdUp == nil || config.Health == nil {
		return nil, fmt.Errorf("metrics: every source is required: %w", errdefs.ErrInvalidArgument)
	}
	m := &Metrics{
		registry: prometheus.NewRegistry(),
		operations: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "phonehost_operations_total", Help: "Operations that ended, by kind and state.",
		}, []string{"kind", "state"}),
		durations: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name: "phonehost_operation_duration_seconds", Help: "Time from the acceptance of an operation to its end, by kind.",
			Buckets: []float64{0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300, 600},
		}, []string{"kind"}),
		sessions: prometheus.NewGaugeVec(prometheus.GaugeOpts{
			Name: "phonehost_tunnel_sessions", Help: "Open sessions of the network doors, by door and kind.",
		}, []string{"door", "kind"}),
		opened: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "phonehost_tunnel_sessions_opened_total", Help: "Sessions of the network doors that were opened, by door and kind.",
		}, []string{"door", "kind"}),
		refused: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "phonehost_tunnel_refusals_total", Help: "Peers that were refused at the network doors, by door.",
		}, []string{"door"}),
		waits: prometheus.NewHistogram(prometheus.HistogramOpts{
			Name: "phonehost_boot_wait_seconds", Help: "Time that phones waited for their boot slots, those that had one at once included.",
			Buckets: []float64{0.01, 0.1, 1, 5, 15, 30, 60, 120, 300, 600, 1800},
		}),
	}
	m.prepare()
	build := prometheus.NewGauge(prometheus.GaugeOpts{
		Name: "phonehost_agent_build_info", Help: "Always 1; its labels tell the version of the agent and of Go.",
		ConstLabels: prometheus.Labels{"version": config.Version, "goversion": runtime.Version()},
	})
	build.Set(1)
	for _, c := range []prometheus.Collector{
		build, m.operations, m.durations, m.sessions, m.opened, m.refused, m.waits, newReader(config),
		collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}),
	} {
		if err := m.registry.Register(c); err != nil {
			return nil, fmt.Errorf("metrics: register: %w", err)
		}
	}
	return m, nil
}

// prepare makes every series exist from the start, so that rates are right from the first event on.
func (m *Metrics) prepare() {
	for _, kind := range operationKinds {
		m.durations.WithLabelValues(kind)
		for _, state := range operationStates {
			m.operations.WithLabelValues(kind, state)
		}
	}
	for _, door := range sessionDoors {
		m.refused.WithLabelValues(door)
		for _, kind := range sessionKinds {
			m.sessions.WithLabelValues(door, kind)
			m.opened.WithLabelValues(door, kind)
		}
	}
}

// OperationEnded counts an operation that ended. kind is the word of its kind ("power_on"), state that of its state
// ("succeeded"); what is not known counts as "other".
func (m *Metrics) OperationEnded(kind, state string, took time.Duration) {
	kind, state = oneOf(kind, operationKinds), oneOf(state, operationStates)
	m.operations.WithLabelValues(kind, state).Inc()
	m.durations.WithLabelValues(kind).Observe(took.Seconds())
}

// BootAdmitted counts a phone that got its boot slot.
func (m *Metrics) BootAdmitted(waited time.Duration) { m.waits.Observe(waited.Seconds()) }

// SessionOpened counts a session of a network door. door is the door's name ("listen", "dial:ADDRESS"), kind "control" or
// "media".
func (m *Metrics) SessionOpened(door, kind string) {
	door, kind = doorLabel(door), oneOf(kind, sessionKinds)
	m.sessions.WithLabelValues(door, kind).Inc()
	m.opened.WithLabelValues(door, kind).Inc()
}

// SessionClosed counts the end of a session that SessionOpened counted.
func (m *Metrics) SessionClosed(door, kind string) {
	m.sessions.WithLabelValues(doorLabel(door), oneOf(kind, sessionKinds)).Dec()
}

// SessionRefused counts a peer that was refused.
func (m *Metrics) SessionRefused(door string) { m.refused.WithLabelValues(doorLabel(door)).Inc() }

// doorLabel leaves out the address of a control plane that is dialled.
func doorLabel(door string) string {
	if len(door) >= 5 && door[:5] == "dial:" {
		return "dial"
	}
	return oneOf(door, sessionDoors)
}

func oneOf(value string, known []string) string {
	for _, k := range known {
		if value == k {
			return value
		}
	}
	return "other"
}

// Handler serves the metrics.
func (m *Metrics) Handler() http.Handler {
	return promhttp.HandlerFor(m.registry, promhttp.HandlerOpts{MaxRequestsInFlight: 4, Timeout: 10 * time.Second})
}

// Serve serves the metrics at /metrics on a Unix socket of mode 0660 until ctx ends; requests that are under way get two
// seconds. A socket that nobody serves any more is replaced. It returns errdefs.ErrAlreadyExists when one is served.
func (m *Metrics) Serve(ctx context.Context, path string) error {
	l, err := listen(path)
	if err != nil {
		return fmt.Errorf("serve metrics: %w", err)
	}
	mux := http.NewServeMux()
	mux.Handle("GET /metrics", m.Handler())
	server := &http.Server{Handler: mux, ReadHeaderTimeout: 5 * time.Second, IdleTimeout: time.Minute}
	stopped := make(chan struct{})
	stop := context.AfterFunc(ctx, func() {
		defer close(stopped)
		detached, cancel := context.WithTimeout(context.WithoutCancel(ctx), 2*time.Second)
		defer cancel()
		if err := server.Shutdown(detached); err != nil {
			server.Close()
		}
	})
	err = server.Serve(l)
	if !stop() {
		<-stopped
	}
	if errors.Is(err, http.ErrServerClosed) {
		return nil
	}
	return fmt.Errorf("serve metrics: %w", err)
}

// listen makes the socket.
func listen(path string) (net.Listener, error) {
	if old, err := net.Dial("unix", path); err == nil {
		old.Close()
		return nil, fmt.Errorf("%s is served already: %w", path, errdefs.ErrAlreadyExists)
	}
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	l, err := net.Listen("unix", path)
	if err != nil {
		return nil, err
	}
	if err := os.Chmod(path, 0o660); err != nil {
		return nil, errors.Join(err, l.Close())
	}
	return l, nil
}
