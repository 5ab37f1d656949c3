package metrics

import (
	"github.com/prometheus/client_golang/prometheus"

	"github.com/phonehost/phonehost/agent/health"
	"github.com/phonehost/phonehost/netpolicy/policy"
)

// statusLabels are the words for the numbers of a phone's status.
var statusLabels = [6]string{"unknown", "stopped", "running", "stopping", "starting", "powered_off"}

// reader reads at each scrape what other packages count.
type reader struct {
	config Config

	start, phones, viewers, levels, packets, bytes, skipped  *prometheus.Desc
	keyFrames, input, displays, containerd, warnings, serves *prometheus.Desc
	frozen, booting, queued                                  *prometheus.Desc
	volumes, promised, allocated, diskBytes, diskFree        *prometheus.Desc
	netPackets, netBytes, netDropped, netFlows               *prometheus.Desc
	names, queries, limited, hits, asked, unanswered         *prometheus.Desc
	opened, removed, tier, appsDenied                        *prometheus.Desc
}

func newReader(config Config) *reader {
	desc := func(name, help string, labels ...string) *prometheus.Desc {
		return prometheus.NewDesc("phonehost_"+name, help, labels, nil)
	}
	return &reader{
		config:     config,
		start:      desc("agent_start_time_seconds", "When the agent started, in seconds since the Unix epoch."),
		phones:     desc("phones", "Phones, by status.", "status"),
		frozen:     desc("phones_frozen", "Phones that are frozen."),
		booting:    desc("boots_under_way", "Phones that hold a boot slot."),
		queued:     desc("boots_queued", "Phones that wait for a boot slot."),
		volumes:    desc("data_volumes", "Data volumes."),
		promised:   desc("data_promised_bytes", "Sum of the sizes of the data volumes."),
		allocated:  desc("data_allocated_bytes", "What the data volumes take of the host's disk."),
		diskBytes:  desc("data_disk_bytes", "Size of the host's file system that holds the data volumes."),
		diskFree:   desc("data_disk_free_bytes", "What is free of it."),
		netPackets: desc("network_packets_total", "Packets that passed between phones and the network, by direction.", "direction"),
		netBytes:   desc("network_bytes_total", "Bytes that passed between phones and the network, by direction.", "direction"),
		netDropped: desc("network_dropped_packets_total", "Packets of and to phones that were dropped, by reason.", "reason"),
		netFlows:   desc("network_flows", "Live flows of phones."),
		names:      desc("name_server_up", "Whether the phones' name server runs: 1 or 0. Without networks there is none."),
		queries:    desc("name_server_queries_total", "Questions of phones to the name server, by result.", "result"),
		limited:    desc("name_server_limited_total", "Questions, packets and connections beyond a phone's rate or share."),
		hits:       desc("name_server_cache_hits_total", "Questions that the name server's cache answered."),
		asked:      desc("name_server_upstream_queries_total", "Questions that were put to upstream name servers."),
		unanswered: desc("name_server_upstream_failures_total", "Questions that an upstream name server did not answer."),
		opened:     desc("name_server_addresses_opened_total", "Addresses that were opened for a phone, by each name."),
		removed:    desc("name_server_addresses_removed_total", "Protected addresses that were taken out of answers."),
		tier:       desc("app_lists_tier", "1 for the tier of what the kernel refuses to apps, as was tried last, 0 for the others; all are 0 where it refuses nothing.", "tier"),
		appsDenied: desc("app_denials_total", "Refusals to apps of phones that the agent has read from the kernel, by kind.", "kind"),
		viewers:    desc("viewers", "Attached viewers."),
		levels:     desc("stream_levels", "Open encoders."),
		packets:    desc("stream_packets_total", "Video packets that were handed to viewers' connections."),
		bytes:      desc("stream_bytes_total", "Bytes of video that were handed to viewers' connections."),
		skipped:    desc("stream_packets_skipped_total", "Packets that were encoded for other viewers and left out for one that lagged."),
		keyFrames:  desc("stream_key_frames_requested_total", "Key frames that were asked of displays because a viewer came, lagged or asked."),
		input:      desc("input_events_total", "Input events that were delivered to displays."),
		displays:   desc("displays_connected", "Displays that are connected."),
		containerd: desc("containerd_up", "Whether containerd answers: 1 or 0."),
		warnings:   desc("health_warnings", "Standing warnings, by severity.", "severity"),
		serves:     desc("health_serving", "Whether no warning of severity error stands: 1 or 0."),
	}
}

// Describe sends what Collect will.
func (r *reader) Describe(out chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{
		r.start, r.phones, r.viewers, r.levels, r.packets, r.bytes, r.skipped, r.keyFrames, r.input, r.displays, r.containerd,
		r.warnings, r.serves, r.frozen, r.booting, r.queued,
		r.volumes, r.promised, r.allocated, r.diskBytes, r.diskFree, r.netPackets, r.netBytes, r.netDropped, r.netFlows,
		r.names, r.queries, r.limited, r.hits, r.asked, r.unanswered, r.opened, r.removed, r.tier, r.appsDenied,
	} {
		out <- d
	}
}

// Collect reads everything once.
func (r *reader) Collect(out chan<- prometheus.Metric) {
	gauge := func(d *prometheus.Desc, value float64, labels ...string) {
		out <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, value, labels...)
	}
	counter := func(d *prometheus.Desc, value uint64, labels ...string) {
		out <- prometheus.MustNewConstMetric(d, prometheus.CounterValue, float64(value), labels...)
	}
	gauge(r.start, float64(r.config.Start.UnixMilli())/1000)
	for status, n := range r.config.PhonesByStatus() {
		gauge(r.phones, float64(n), statusLabels[status])
	}
	gauge(r.frozen, float64(r.config.PhonesFrozen()))
	booting, queued := r.config.BootQueue()
	gauge(r.booting, float64(booting))
	gauge(r.queued, float64(queued))
	if s, err := r.config.DataSpace(); err == nil {
		gauge(r.volumes, float64(s.Volumes))
		gauge(r.promised, float64(s.PromisedBytes))
		gauge(r.allocated, float64(s.AllocatedBytes))
		gauge(r.diskBytes, float64(s.HostBytes))
		gauge(r.diskFree, float64(s.HostFreeBytes))
	}
	if n, err := r.config.Network(); err == nil {
		for direction, label := range []string{policy.Egress: "sent", policy.Ingress: "received"} {
			counter(r.netPackets, n.Packets[direction], label)
			counter(r.netBytes, n.Bytes[direction], label)
		}
		for label, word := range dropReasons {
			counter(r.netDropped, n.Dropped[word], label)
		}
		gauge(r.netFlows, float64(n.Flows))
	}
	r.collectNames(gauge, counter)
	a := r.config.AppLists()
	for _, tier := range appTiers {
		gauge(r.tier, truth(a.Tier == tier), tier)
	}
	for _, kind := range appKinds {
		counter(r.appsDenied, a.Denied[kind], kind)
	}
	t := r.config.Streams()
	gauge(r.viewers, float64(t.Viewers))
	gauge(r.levels, float64(t.Levels))
	counter(r.packets, t.Packets)
	counter(r.bytes, t.Bytes)
	counter(r.skipped, t.Skipped)
	counter(r.keyFrames, t.KeyFrames)
	counter(r.input, t.InputEvents)
	gauge(r.displays, float64(r.config.DisplaysConnected()))
	gauge(r.containerd, truth(r.config.ContainerdUp()))
	count := map[health.Severity]int{}
	for _, f := range r.config.Health.List() {
		count[f.Severity]++
	}
	for _, s := range []health.Severity{health.Warning, health.Error} {
		gauge(r.warnings, float64(count[s]), s.String())
	}
	gauge(r.serves, truth(r.config.Health.Serving()))
}

// collectNames reads what the name server has counted.
func (r *reader) collectNames(gauge func(*prometheus.Desc, float64, ...string), counter func(*prometheus.Desc, uint64, ...string)) {
	n := r.config.NameServer()
	gauge(r.names, truth(n.Up))
	c := n.Counters
	for result, count := range map[string]uint64{
		"answered": c.Answered, "refused": c.Refused, "rebinding": c.Rebinding, "unsupported": c.Unsupported, "unknown_phone": c.Unknown, "failed": c.Failed,
	} {
		counter(r.queries, count, result)
	}
	counter(r.limited, c.Limited)
	counter(r.hits, c.Hits)
	counter(r.asked, c.Upstream)
	counter(r.unanswered, c.UpstreamErrors)
	counter(r.opened, c.Opened)
	counter(r.removed, c.Protected)
}

func truth(yes bool) float64 {
	if yes {
		return 1
	}
	return 0
}
