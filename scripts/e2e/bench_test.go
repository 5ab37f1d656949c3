package e2e

import (
	"bufio"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/opencontainers/runtime-spec/specs-go"

	"github.com/phonehost/phonehost/agent/client"
	phonehostv1 "github.com/phonehost/phonehost/proto/phonehost/v1"
)

// BenchmarkTunnel measures how long a frame takes beside its encoding, from the guest's commit to the viewer at the other end of the TLS
// tunnel, at 30 frames a second; and how long a bare TLS connection takes to echo the same packets in the same run. Each packet is echoed
// in the middle between two frames, so that both sides find the machine as idle as the other does (an echo right after the frame, in
// warm caches and on cores that are awake, is reported beside it). An iteration is one frame:
//
//	go test -run '^$' -bench Tunnel -benchtime 900x ./scripts/e2e
func BenchmarkTunnel(b *testing.B) {
	h := newHost(b)
	h.create("p1")
	echo := h.echo()
	c, err := client.Dial(b.Context(), client.Options{
		Host: "tls://" + h.tlsAddr, CA: h.path("pki", "ca.pem"),
		Cert: h.path("pki", "client-fleet.pem"), Key: h.path("pki", "client-fleet-key.pem"),
	})
	if err != nil {
		b.Fatal(err)
	}
	defer c.Close()
	ctx, cancel := context.WithCancel(b.Context())
	defer cancel()
	stream, err := phonehostv1.NewStreamServiceClient(c.Media()).Attach(ctx)
	if err != nil {
		b.Fatal(err)
	}
	start := &phonehostv1.AttachRequest{Message: &phonehostv1.AttachRequest_Start{Start: &phonehostv1.AttachStart{PhoneId: "p1"}}}
	if err := stream.Send(start); err != nil {
		b.Fatal(err)
	}
	var ours, theirs, warm, toEncoder, toAgent, toViewer []float64
	between := time.NewTimer(0)
	<-between.C
	next := func() {
		p, arrived := packet(b, stream)
		ms := func(from, to int64) float64 { return float64(to-from) / 1e6 }
		ours = append(ours, ms(p.GetCommitTimeNs(), arrived.UnixNano())-ms(p.GetEncodeStartTimeNs(), p.GetEncodeEndTimeNs()))
		toEncoder = append(toEncoder, ms(p.GetCommitTimeNs(), p.GetEncodeStartTimeNs()))
		toAgent = append(toAgent, ms(p.GetEncodeEndTimeNs(), p.GetSendTimeNs()))
		toViewer = append(toViewer, ms(p.GetSendTimeNs(), arrived.UnixNano()))
		warm = append(warm, echo(p.GetData()))
		between.Reset(time.Second / 30 / 2)
		<-between.C
		theirs = append(theirs, echo(p.GetData()))
	}
	for range 30 { // connections warm up, the key frame passes
		next()
	}
	ours, theirs, warm, toEncoder, toAgent, toViewer = nil, nil, nil, nil, nil, nil
	for b.Loop() {
		next()
	}
	b.ReportMetric(quantile(warm, 50), "tls_echo_warm_p50_ms")
	b.ReportMetric(quantile(toEncoder, 50), "to_encoder_p50_ms")
	b.ReportMetric(quantile(toAgent, 50), "to_agent_p50_ms")
	b.ReportMetric(quantile(toViewer, 50), "to_viewer_p50_ms")
	for _, q := range []float64{50, 99} {
		b.ReportMetric(quantile(ours, q), fmt.Sprintf("p%.0f_ms", q))
		b.ReportMetric(quantile(theirs, q), fmt.Sprintf("tls_echo_p%.0f_ms", q))
		b.ReportMetric(quantile(ours, q)/quantile(theirs, q), fmt.Sprintf("ratio_p%.0f", q))
	}
	b.ReportMetric(0, "ns/op")
}

// packet receives and acknowledges the next packet.
func packet(b *testing.B, stream phonehostv1.StreamService_AttachClient) (*phonehostv1.Packet, time.Time) {
	for {
		answer, err := stream.Recv()
		if err != nil {
			b.Fatal(err)
		}
		p := answer.GetPacket()
		if p == nil {
			continue
		}
		arrived := time.Now()
		ack := &phonehostv1.AttachRequest{Message: &phonehostv1.AttachRequest_Ack{Ack: &phonehostv1.Ack{Seq: p.GetSeq()}}}
		if err := stream.Send(ack); err != nil {
			b.Fatal(err)
		}
		return p, arrived
	}
}

// echo connects to an echo server over TLS with the host's certificates and returns what sends a packet and measures, in milliseconds,
// until the whole of it is back.
func (h *host) echo() func([]byte) float64 {
	h.t.Helper()
	pair, err := tls.LoadX509KeyPair(h.path("pki", "agent-e2e.pem"), h.path("pki", "agent-e2e-key.pem"))
	if err != nil {
		h.t.Fatal(err)
	}
	ca, err := os.ReadFile(h.path("pki", "ca.pem"))
	if err != nil {
		h.t.Fatal(err)
	}
	pool := x509.NewCertPool()
	pool.AppendCertsFromPEM(ca)
	l, err := tls.Listen("tcp", "127.0.0.1:0", &tls.Config{Certificates: []tls.Certificate{pair}, MinVersion: tls.VersionTLS13})
	if err != nil {
		h.t.Fatal(err)
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		conn, err := l.Accept()
		if err != nil {
			return
		}
		defer conn.Close()
		io.Copy(conn, conn)
	}()
	conn, err := tls.Dial("tcp", l.Addr().String(), &tls.Config{
		RootCAs: pool, MinVersion: tls.VersionTLS13,
		InsecureSkipVerify: true, // the certificate names an agent, not a host
	})
	if err != nil {
		h.t.Fatal(err)
	}
	h.t.Cleanup(func() { conn.Close(); l.Close(); <-done })
	back := make([]byte, 1<<20)
	return func(data []byte) float64 {
		began := time.Now()
		sent := make(chan error, 1)
		go func() { _, err := conn.Write(data); sent <- err }()
		if _, err := io.ReadFull(conn, back[:len(data)]); err != nil {
			h.t.Fatal(err)
		}
		took := time.Since(began)
		if err := <-sent; err != nil {
			h.t.Fatal(err)
		}
		return float64(took) / 1e6
	}
}

func quantile(samples []float64, q float64) float64 {
	sorted := slices.Sorted(slices.Values(samples))
	return sorted[min(len(sorted)-1, int(float64(len(sorted))*q/100))]
}

// BenchmarkPowerOn measures the time from the request to power a phone on to the first instruction of its init, and the time that ctr takes
// to create and start the same two containers (the specs of `phonectl spec`) in the same order, on root file systems and a loop device that
// were made ready for it. An iteration is one power-on of each, in turn:
//
//	go test -run '^$' -bench PowerOn -benchtime 20x ./scripts/e2e
func BenchmarkPowerOn(b *testing.B) {
	h := newHost(b)
	h.create("p1")
	h.ctl("off", "--force", "p1")
	peer := h.ctrPeer("p1")
	conn, err := client.Dial(b.Context(), client.Options{Host: "unix://" + h.socket()})
	if err != nil {
		b.Fatal(err)
	}
	defer conn.Close()
	phones := phonehostv1.NewPhoneServiceClient(conn.Control())
	var ours, theirs, ratios []float64
	for b.Loop() {
		began := time.Now()
		if _, err := phones.PowerOn(b.Context(), &phonehostv1.PowerOnRequest{PhoneIds: []string{"p1"}}); err != nil {
			b.Fatal(err)
		}
		h.waitStatus("p1", "PHONE_STATUS_RUNNING")
		a := firstInstruction(b, h.ctl("logs", "--tail", "20", "p1")).Sub(began)
		h.ctl("off", "--force", "p1")
		p := peer()
		ours, theirs = append(ours, a.Seconds()*1000), append(theirs, p.Seconds()*1000)
		ratios = append(ratios, a.Seconds()/p.Seconds())
	}
	b.ReportMetric(quantile(ours, 50), "ms")
	b.ReportMetric(quantile(theirs, 50), "ctr_ms")
	b.ReportMetric(quantile(ratios, 50), "ratio")
	b.ReportMetric(0, "ns/op")
}

var started = regexp.MustCompile(`pid 1, started (\S+)`)

// firstInstruction reads when init says that it began; the last run counts.
func firstInstruction(b *testing.B, log string) time.Time {
	all := started.FindAllStringSubmatch(log, -1)
	if len(all) == 0 {
		b.Fatalf("no word of init's start in %q", log)
	}
	at, err := time.Parse(time.RFC3339Nano, all[len(all)-1][1])
	if err != nil {
		b.Fatal(err)
	}
	return at
}

// ctrPeer prepares the two containers of a phone that is off for ctr, and returns what starts them, measures and removes them.
func (h *host) ctrPeer(id string) func() time.Duration {
	b := h.t.(*testing.B)
	dir := b.TempDir()
	guest, display := h.spec(id), h.spec(id, "--display")
	rootfs := filepath.Join(dir, "rootfs")
	if err := os.Mkdir(rootfs, 0o755); err != nil {
		b.Fatal(err)
	}
	h.sh("ctr --address %s -n phonehost image mount --rw phonehost.dev/testphone:latest %s", h.containerd.Address, rootfs)
	b.Cleanup(func() { h.sh("umount %s", rootfs) })
	image := filepath.Join(dir, "data.img")
	h.sh("truncate -s 128M %s && mkfs.ext4 -q %s", image, image)
	loop := strings.TrimSpace(h.sh("losetup --find --show %s", image))
	b.Cleanup(func() { h.sh("losetup -d %s", loop) })
	guest.Root.Path = rootfs
	for i, m := range guest.Mounts {
		if m.Destination == "/data" {
			guest.Mounts[i].Source = loop
		}
	}
	for name, spec := range map[string]*specs.Spec{"peer": guest, "peer.display": display} {
		spec.Annotations["io.containerd.runc.v2.group"] = "peer"
		spec.Linux.CgroupsPath = "/" + filepath.Base(h.dir) + "-ctr/" + name
		out, err := json.Marshal(spec)
		if err != nil {
			b.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, name+".json"), out, 0o644); err != nil {
			b.Fatal(err)
		}
	}
	ctr := func(args ...string) string {
		out, err := exec.CommandContext(b.Context(), "ctr", append([]string{"--address", h.containerd.Address, "-n", "phonehost"}, args...)...).CombinedOutput()
		if err != nil {
			b.Fatalf("ctr %v: %v\n%s", args, err, out)
		}
		return string(out)
	}
	return func() time.Duration {
		log := filepath.Join(dir, "log")
		os.Remove(log)
		began := time.Now()
		for _, name := range []string{"peer.display", "peer"} {
			ctr("run", "-d", "--config", filepath.Join(dir, name+".json"), "--log-uri", "file://"+log, name)
		}
		text := waitLine(b, log, "pid 1, started")
		for _, name := range []string{"peer", "peer.display"} {
			ctr("task", "rm", "-f", name)
			ctr("container", "rm", name)
		}
		return firstInstruction(b, text).Sub(began)
	}
}

// spec returns what `phonectl spec` prints.
func (h *host) spec(id string, flags ...string) *specs.Spec {
	h.t.Helper()
	var spec specs.Spec
	if err := json.Unmarshal([]byte(h.ctl(append([]string{"spec", id}, flags...)...)), &spec); err != nil {
		h.t.Fatalf("decode phonectl spec: %v", err)
	}
	return &spec
}

// sh runs a line of shell, which must succeed.
func (h *host) sh(format string, args ...any) string {
	h.t.Helper()
	out, err := exec.Command("sh", "-c", fmt.Sprintf(format, args...)).CombinedOutput()
	if err != nil {
		h.t.Fatalf("%s: %v\n%s", fmt.Sprintf(format, args...), err, out)
	}
	return string(out)
}

// waitLine reads a growing file until a line holds the words.
func waitLine(b *testing.B, path, words string) string {
	limit := time.NewTimer(30 * time.Second)
	defer limit.Stop()
	again := time.NewTicker(5 * time.Millisecond)
	defer again.Stop()
	for {
		if f, err := os.Open(path); err == nil {
			lines := bufio.NewScanner(f)
			for lines.Scan() {
				if strings.Contains(lines.Text(), words) {
					f.Close()
					return lines.Text()
				}
			}
			f.Close()
		} else if !errors.Is(err, os.ErrNotExist) {
			b.Fatal(err)
		}
		select {
		case <-again.C:
		case <-limit.C:
			b.Fatalf("%s has no line with %q", path, words)
		}
	}
}
