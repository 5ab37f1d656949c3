package cli

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/testing/protocmp"

	"github.com/phonehost/phonehost/agent/cli/render"
	phonehostv1 "github.com/phonehost/phonehost/proto/phonehost/v1"
)

func TestParseSize(t *testing.T) {
	tests := []struct {
		text string
		want uint64
		err  string
	}{
		{"0", 0, ""},
		{"1048576", 1 << 20, ""},
		{"512MiB", 512 << 20, ""},
		{"512 MiB", 512 << 20, ""},
		{"4GiB", 4 << 30, ""},
		{"1g", 1 << 30, ""},
		{"1G", 1 << 30, ""},
		{"1.5g", 3 << 29, ""},
		{"2GB", 2e9, ""},
		{"17179869183GiB", 17179869183 << 30, ""},
		{"17179869184GiB", 0, "too large"},
		{"99999999999999999999", 0, "too large"},
		{"1e3", 0, "is not a size"},
		{"-1", 0, "is not a size"},
		{"", 0, "is not a size"},
		{"GiB", 0, "is not a size"},
		{"1 GiB x", 0, "is not a size"},
		{"1zib", 0, `unknown unit "zib"`},
	}
	for _, tt := range tests {
		t.Run(tt.text, func(t *testing.T) {
			got, err := parseSize(tt.text)
			if got != tt.want || (err == nil) != (tt.err == "") || (err != nil && !strings.Contains(err.Error(), tt.err)) {
				t.Errorf("parseSize(%q) = %d, %v; want %d, %q", tt.text, got, err, tt.want, tt.err)
			}
		})
	}
}

func FuzzParseSize(f *testing.F) {
	for _, text := range []string{"512MiB", "1.5g", "99999999999999999999", "0.0000001tib"} {
		f.Add(text)
	}
	f.Fuzz(func(t *testing.T, text string) {
		n, err := parseSize(text)
		if err != nil && n != 0 {
			t.Errorf("parseSize(%q) = %d with error %v", text, n, err)
		}
	})
}

// What tables print can be given back on the command line.
func TestPrintedSizesAreRead(t *testing.T) {
	for _, n := range []uint64{0, 1, 1023, 1 << 10, 512 << 20, 3 << 29, 4 << 30, 1 << 40, 1 << 50} {
		text := render.Bytes(n)
		if n < 1<<50 {
			if got, err := parseSize(text); err != nil || got != n {
				t.Errorf("%d is printed as %s and read as %d, %v", n, text, got, err)
			}
		}
	}
}

func TestParseScreen(t *testing.T) {
	tests := []struct {
		text string
		want *phonehostv1.DisplaySpec
		err  string
	}{
		{"720x1280", &phonehostv1.DisplaySpec{Width: 720, Height: 1280}, ""},
		{"720x1280@30", &phonehostv1.DisplaySpec{Width: 720, Height: 1280, MaxFps: 30}, ""},
		{"720x1280@60/320dpi", &phonehostv1.DisplaySpec{Width: 720, Height: 1280, MaxFps: 60, Dpi: 320}, ""},
		{"720x1280/160dpi", &phonehostv1.DisplaySpec{Width: 720, Height: 1280, Dpi: 160}, ""},
		{"99999x99999", &phonehostv1.DisplaySpec{Width: 99999, Height: 99999}, ""}, // the agent's to refuse
		{"720x0", nil, "must be greater than 0"},
		{"720x1280@0", nil, "must be greater than 0"},
		{"720", nil, "is not a display"},
		{"720x1280@30@30", nil, "is not a display"},
		{"720x1280@30/320", nil, "is not a display"},
		{"-720x1280", nil, "is not a display"},
		{"123456x1", nil, "is not a display"},
	}
	for _, tt := range tests {
		t.Run(tt.text, func(t *testing.T) {
			got, err := parseScreen(tt.text)
			if (err == nil) != (tt.err == "") || (err != nil && !strings.Contains(err.Error(), tt.err)) {
				t.Errorf("error %v, want %q", err, tt.err)
			}
			if diff := cmp.Diff(tt.want, got, protocmp.Transform()); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
			if full := got != nil && got.Dpi != 0 && got.MaxFps != 0; full && render.Screen(got, true) != tt.text {
				t.Errorf("%s is printed as %s", tt.text, render.Screen(got, true))
			}
		})
	}
}

func TestParseBandwidth(t *testing.T) {
	for text, tt := range map[string]struct {
		want uint64
		err  string
		back string // as phonectl shows it
	}{
		"0":                    {0, "", "unlimited"},
		"64000":                {64_000, "", "64kbit"},
		"10Mbit":               {10e6, "", "10Mbit"},
		"10m":                  {10e6, "", "10Mbit"},
		"1.5Gbit":              {1.5e9, "", "1.5Gbit"},
		"0.1 g":                {1e8, "", "100Mbit"},
		"1.1mbit":              {1.1e6, "", "1.1Mbit"},
		"10MiB":                {0, `unknown unit "MiB"`, ""},
		"10MB":                 {0, `unknown unit "MB"`, ""},
		"fast":                 {0, "is not a bandwidth", ""},
		"-1":                   {0, "is not a bandwidth", ""},
		"1e6":                  {0, "is not a bandwidth", ""},
		"99999999999999999999": {0, "too large", ""},
	} {
		got, err := parseBandwidth(text)
		if got != tt.want || (err == nil) != (tt.err == "") || err != nil && !strings.Contains(err.Error(), tt.err) {
			t.Errorf("%q: %d %v, want %d %s", text, got, err, tt.want, tt.err)
		}
		if back := render.Bits(got); err == nil && back != tt.back {
			t.Errorf("%q is shown as %q, want %q", text, back, tt.back)
		}
	}
}

func TestParseForward(t *testing.T) {
	const tcp, udp = phonehostv1.NetworkProtocol_NETWORK_PROTOCOL_TCP, phonehostv1.NetworkProtocol_NETWORK_PROTOCOL_UDP
	for text, want := range map[string]*phonehostv1.Forward{
		"127.0.0.1:6001:5555":     {Listen: "127.0.0.1:6001", Protocol: tcp, Port: 5555},
		"6001:5555":               {Listen: "127.0.0.1:6001", Protocol: tcp, Port: 5555},
		"0.0.0.0:53:53/udp":       {Listen: "0.0.0.0:53", Protocol: udp, Port: 53},
		"[2001:db8::1]:80:80/tcp": {Listen: "[2001:db8::1]:80", Protocol: tcp, Port: 80},
		"[::]:80:8080":            {Listen: "[::]:80", Protocol: tcp, Port: 8080},
		"":                        nil,
		"5555":                    nil,
		"127.0.0.1:5555":          nil,
		"1:2:3":                   nil,
		"6001:65536":              nil,
		"6001:0":                  nil,
		"6001:5555/icmp":          nil,
		"localhost:1:2":           nil,
	} {
		got, err := parseForward(text)
		if (err == nil) != (want != nil) {
			t.Errorf("%q: %v %v", text, got, err)
			continue
		}
		if diff := cmp.Diff(want, got, protocmp.Transform()); diff != "" {
			t.Errorf("%q (-want +got):\n%s", text, diff)
		}
	}
}
