// Command bench measures phonehost against named peers in the same run and prints each ratio beside its aim.
//
// The measuring is done by Go benchmarks beside the code (docs/bench.md says what each does); this program runs them one after the other,
// as each wants the machine for itself, and puts their figures into one table. It fails when a benchmark does, never because an aim is
// missed.
package main

import (
	"bufio"
	"bytes"
	"context"
	"flag"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/phonehost/phonehost/scripts/vm/ready"
)

// suite is one run of a package's benchmarks, on this host or, where in says which, in a machine of the VM lab.
type suite struct {
	in                ready.Spec
	pkg, bench, times string
	rows              []row
}

// row is one line of the table: a figure of one benchmark, and what it is compared with.
type row struct {
	bench, what string
	ours, peer  string // names of metrics; peer may be empty
	ratio       string // name of the metric that the aim is about; empty means ours, beside which a peer is only shown
	aim         bound
	unit        string
}

// bound is the most that a figure should be; below zero, the least.
type bound float64

// atLeast is the bound of what should not be less.
func atLeast(v float64) bound { return bound(-v) }

// met tells whether a figure keeps to the bound.
func (b bound) met(v float64) bool {
	if b < 0 {
		return v >= float64(-b)
	}
	return v <= float64(b)
}

func (b bound) String() string {
	if b < 0 {
		return fmt.Sprintf("≥ %g", float64(-b))
	}
	return fmt.Sprintf("≤ %g", float64(b))
}

// suites are what docs/bench.md describes, in its order.
func suites() []suite {
	here, arm64 := ready.Spec{}, ready.Spec{Series: "6.12", Arch: "arm64"}
	counted := ready.Spec{Series: "6.12", Arch: "arm64", Variants: []ready.Variant{ready.Counted}}
	return []suite{
		{here, "./encoder/cmd/phone-display", "^BenchmarkCPU$", "10x", []row{
			{"CPU/motion", "CPU per frame, motion : ffmpeg", "cpu_ms/frame", "ffmpeg_cpu_ms/frame", "ratio", 1.25, "ms"},
			{"CPU/scroll", "CPU per frame, scroll : ffmpeg", "cpu_ms/frame", "ffmpeg_cpu_ms/frame", "ratio", 1.25, "ms"},
			{"CPU/typing", "CPU per frame, typing : ffmpeg", "cpu_ms/frame", "ffmpeg_cpu_ms/frame", "ratio", 1.25, "ms"},
		}},
		{here, "./encoder/cmd/phone-display", "^BenchmarkPeer$", "6x", []row{
			{"Peer", "CPU per frame : sway + wf-recorder", "cpu_ms/frame", "sway_wf-recorder_cpu_ms/frame", "ratio", 0.6, "ms"},
		}},
		{here, "./scripts/e2e", "^BenchmarkTunnel$", "900x", []row{
			{"Tunnel", "commit to viewer less encoding, p50 : TLS echo", "p50_ms", "tls_echo_p50_ms", "ratio_p50", 3, "ms"},
			{"Tunnel", "commit to viewer less encoding, p99 : TLS echo", "p99_ms", "tls_echo_p99_ms", "ratio_p99", 3, "ms"},
		}},
		{here, "./encoder/cmd/phone-display", "^BenchmarkStill$", "2x", []row{
			{"Still", "still screen, watched: CPU", "watched_cpu_percent", "", "", 0.2, "% of a core"},
			{"Still", "still screen, watched: frames encoded", "watched_frames_encoded", "", "", 0, "frames"},
			{"Still", "still screen, unwatched: CPU", "unwatched_cpu_percent", "", "", 0.2, "% of a core"},
		}},
		{here, "./encoder/cmd/phone-display", "^BenchmarkMemory$", "1x", []row{
			{"Memory", "memory of a display, still (PSS)", "still_KiB", "", "", 12 << 10, "KiB"},
			{"Memory", "memory of a display, unwatched, its guest draws (PSS)", "idle_KiB", "", "", 12 << 10, "KiB"},
			{"Memory", "memory of a display, streaming (PSS)", "streaming_KiB", "", "", 32 << 10, "KiB"},
		}},
		{here, "./scripts/e2e", "^BenchmarkPowerOn$", "20x", []row{
			{"PowerOn", "power-on to init's first instruction : ctr", "ms", "ctr_ms", "ratio", 1.3, "ms"},
		}},
		{here, "./scripts/e2e", "^BenchmarkReset$", "15x", []row{
			{"Reset", "reset of a phone that runs : restart", "ms", "restart_ms", "ratio", 1.2, "ms"},
		}},
		{here, "./scripts/e2e", "^BenchmarkStorm$", "2x", []row{
			{"Storm", "100 phones created and on, 8 at once : ctr and its preparations", "s", "ctr_s", "ratio", 1.3, "s"},
			{"Storm", "100 phones created and on, 8 at once : ctr run alone", "s", "ctr_run_s", "ratio_run", 1.3, "s"},
			{"Storm", "memory beside the guest of one of 100 phones (PSS) : ctr", "beside_KiB", "ctr_beside_KiB", "", 10 << 10, "KiB"},
			{"Storm", "adoption of 100 phones by a new agent : ctr tasks ls", "adopt_s", "ctr_ls_s", "", 1, "s"},
		}},
		{here, "./agent/api", "^BenchmarkBatchGetStatus$", "2000x", []row{
			{"BatchGetStatus", "status of 1000 phones, p99 : of 10", "p99_1000_ms", "p99_10_ms", "growth", 100, "ms"},
		}},
		{here, "./netpolicy", "^Benchmark(PhoneNetwork|PolicyChange)$", "100x", []row{
			{"PolicyChange", "a changed policy of 1000 rules in force for 100 phones : nft, a set of as many", "ms", "nft_ms", "ratio", 1, "ms"},
			{"PhoneNetwork", "a phone's network made and removed : ip, sysctl and nft", "ms", "commands_ms", "ratio", 0.5, "ms"},
			{"PhoneNetwork", "a phone's network made : ip, sysctl and nft", "up_ms", "commands_up_ms", "up_ratio", 0.5, "ms"},
		}},
		{here, "./runtime/volume/archive", "^BenchmarkExport$", "9x", []row{
			{"Export", "export of a phone's data : tar --zstd", "export_s", "tar_export_s", "export_ratio", 1.3, "s"},
			{"Export", "import of a phone's data : tar --zstd", "import_s", "tar_import_s", "import_ratio", 1.3, "s"},
			{"Export", "size of the archive : tar --zstd", "MiB", "tar_MiB", "size_ratio", 1.05, "MiB"},
		}},
		{here, "./scripts/bench/netbench", "^BenchmarkPolicy$", "9x", []row{
			{"Policy", "TCP round trip, policy of 1000 networks : no policy", "tcp_us", "none_tcp_us", "tcp_ratio", 1.08, "µs"},
			{"Policy", "TCP round trip, policy of 1000 networks : nftables", "tcp_us", "nft_tcp_us", "tcp_nft_ratio", 0.97, "µs"},
			{"Policy", "UDP round trip, policy of 1000 networks : no policy", "udp_us", "none_udp_us", "udp_ratio", 1.08, "µs"},
			{"Policy", "UDP round trip, policy of 1000 networks : nftables", "udp_us", "nft_udp_us", "udp_nft_ratio", 0.97, "µs"},
			{"Policy", "new connection, policy of 1000 networks : no policy", "connection_us", "none_connection_us", "connection_ratio", 1.1, "µs"},
			{"Policy", "bytes by one thread, policy of 1000 networks : no policy", "bulk_Gbit/s", "none_bulk_Gbit/s", "bulk_ratio", atLeast(0.92), "Gbit/s"},
		}},
		{here, "./scripts/bench/netbench", "^BenchmarkRules$", "9x", []row{
			{"Rules", "TCP round trip, 10000 rules : 10 rules", "rules10000_us", "rules10_us", "ratio", 1.1, "µs"},
		}},
		{here, "./scripts/bench/netbench", "^BenchmarkLimit$", "9x", []row{
			{"Limit", "TCP round trip far below the limits : without limits", "limited_us", "none_us", "ratio", 1.5, "µs"},
		}},
		{counted, "./netpolicy/appguard", "^BenchmarkCosts$", "3x", []row{
			{"Costs", "setresuid in a phone with 10000 apps : no programs", "setresuid", "none_setresuid", "setresuid_ratio", 1.25, "instructions"},
			{"Costs", "setresuid outside of phones : no programs", "outside", "none_outside", "outside_ratio", 1.15, "instructions"},
			{"Costs", "rename of a file : no programs", "file", "none_file", "file_ratio", 1.12, "instructions"},
			{"Costs", "rename of a directory elsewhere : no programs", "directory", "none_directory", "directory_ratio", 1.12, "instructions"},
			{"Costs", "rename that installs an app : no programs", "install", "none_install", "install_ratio", 2, "instructions"},
		}},
		{arm64, "./netpolicy/appguard", "^BenchmarkVerified$", "1x", []row{
			{"Verified", "instructions verified of the program that needs most", "percent", "", "", 5, "% of the limit"},
		}},
		{arm64, "./netpolicy/appguard", "^BenchmarkAdopt$", "5x", []row{
			{"Adopt", "app rules of 100 phones adopted, all programs : loaded and set", "ms", "cold_ms", "ratio", 0.2, "ms"},
		}},
		{here, "./netpolicy/appguard", "^BenchmarkAdopt$", "9x", []row{
			{"Adopt", "app rules of 100 phones adopted on this host : loaded and set", "ms", "cold_ms", "ratio", 0.2, "ms"},
		}},
		{here, "./scripts/e2e", "^BenchmarkAppList$", "5x", []row{
			{"AppList", "500 other packages denied on 100 phones, p99 : pm suspend in each by ctr", "p99_ms", "suspend_p99_ms", "", 1000, "ms"},
		}},
		{here, "./netpolicy/shape", "^BenchmarkBandwidth$", "1x", bandwidth()},
	}
}

// bandwidth is the rows of limits, by the distance of the server and the rate.
func bandwidth() (rows []row) {
	for _, at := range []string{"0ms/1Mbit", "0ms/10Mbit", "0ms/20Mbit", "0ms/100Mbit", "0ms/500Mbit", "0ms/1000Mbit", "20ms/1Mbit", "20ms/10Mbit", "20ms/20Mbit", "20ms/100Mbit"} {
		bench, what := "Bandwidth/"+at, strings.Replace(at, "/", " away, limit ", 1)
		rows = append(rows,
			row{bench, what + ": the least that arrived", "least_share", "", "", atLeast(0.92), "of it"},
			row{bench, what + ": the most that arrived", "greatest_share", "", "", 1.02, "of it"},
			row{bench, what + ": added delay at the limit, median", "wait_p50_ms", "", "", 100, "ms"},
			row{bench, what + ": sent again by BBR", "bbr_again", "", "", 0.001, "of segments"},
			row{bench, what + ": lost of UDP at 0.9 of the limit", "paced_lost", "", "", 0.001, "of datagrams"},
		)
	}
	return rows
}

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	only := flag.String("only", "", "measure only what has a benchmark whose name this `regexp` matches, such as Storm|Reset")
	flag.Parse()
	if err := run(ctx, os.Stdout, *only); err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, out io.Writer, only string) error {
	chosen, err := choose(suites(), only)
	if err != nil {
		return err
	}
	table := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	fmt.Fprintln(table, "MEASURE\tOURS\tPEER\tRATIO\tAIM\t")
	for _, s := range chosen {
		fmt.Fprintf(os.Stderr, "bench: %s %s%s\n", s.pkg, s.bench, s.where())
		figures, err := s.run(ctx)
		if err != nil {
			return err
		}
		for _, r := range s.rows {
			line, err := r.format(figures[r.bench])
			if err != nil {
				return fmt.Errorf("%s: %w", r.bench, err)
			}
			fmt.Fprintln(table, line)
		}
	}
	return table.Flush()
}

// choose returns the suites whose benchmarks match a regular expression.
func choose(all []suite, only string) ([]suite, error) {
	match, err := regexp.Compile(only)
	if err != nil {
		return nil, fmt.Errorf("-only: %w", err)
	}
	chosen := slices.DeleteFunc(slices.Clone(all), func(s suite) bool { return !match.MatchString(s.bench) })
	if len(chosen) == 0 {
		var names []string
		for _, s := range all {
			names = append(names, strings.Trim(s.bench, "^$"))
		}
		return nil, fmt.Errorf("-only: %q matches none of %s", only, strings.Join(names, ", "))
	}
	return chosen, nil
}

// run returns the metrics of the suite's benchmarks by name, without "Benchmark" and the number of processors.
func (s suite) run(ctx context.Context) (map[string]map[string]float64, error) {
	text, err := s.output(ctx)
	if err != nil {
		return nil, fmt.Errorf("%s %s: %w\n%s", s.pkg, s.bench, err, text)
	}
	return parse(text)
}

// output runs the benchmarks and returns what they print.
func (s suite) output(ctx context.Context) ([]byte, error) {
	if s.in.Arch != "" {
		return s.inMachine(ctx)
	}
	cmd := exec.CommandContext(ctx, "go", "test", "-run", "^$", "-bench", s.bench, "-benchtime", s.times, "-timeout", timeout.String(), s.pkg)
	cmd.Env = append(os.Environ(), "PHONEHOST_TEST_REQUIRE=all")
	cmd.Stderr = os.Stderr
	return cmd.Output()
}

// timeout bounds one run of benchmarks.
const timeout = 20 * time.Minute

// parse reads what go test prints for benchmarks: a name, a count, and pairs of value and unit.
func parse(text []byte) (map[string]map[string]float64, error) {
	found := map[string]map[string]float64{}
	for lines := bufio.NewScanner(bytes.NewReader(text)); lines.Scan(); {
		fields := strings.Fields(lines.Text())
		if len(fields) < 4 || !strings.HasPrefix(fields[0], "Benchmark") {
			continue
		}
		name := strings.TrimPrefix(fields[0], "Benchmark")
		if i := strings.LastIndexByte(name, '-'); i > 0 {
			name = name[:i]
		}
		metrics := map[string]float64{}
		for i := 2; i+1 < len(fields); i += 2 {
			v, err := strconv.ParseFloat(fields[i], 64)
			if err != nil {
				return nil, fmt.Errorf("read %q: %w", lines.Text(), err)
			}
			metrics[fields[i+1]] = v
		}
		found[name] = metrics
	}
	return found, nil
}

// format is the row's line of the table.
func (r row) format(metrics map[string]float64) (string, error) {
	get := func(name string) (float64, error) {
		v, ok := metrics[name]
		if !ok {
			return 0, fmt.Errorf("no metric %s among %v", name, metrics)
		}
		return v, nil
	}
	ours, err := get(r.ours)
	if err != nil {
		return "", err
	}
	peer, ratio, judged := "-", "-", ours
	if r.peer != "" {
		p, err := get(r.peer)
		if err != nil {
			return "", err
		}
		peer = fmt.Sprintf("%.4g %s", p, r.unit)
	}
	if r.ratio != "" {
		if judged, err = get(r.ratio); err != nil {
			return "", err
		}
		ratio = fmt.Sprintf("%.3g", judged)
	}
	verdict := "met"
	if !r.aim.met(judged) {
		verdict = "missed"
	}
	return fmt.Sprintf("%s\t%.4g %s\t%s\t%s\t%s\t%s", r.what, ours, r.unit, peer, ratio, r.aim, verdict), nil
}
