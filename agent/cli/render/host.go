package render

import (
	"fmt"
	"io"
	"strconv"
	"strings"
	"time"

	phonehostv1 "github.com/phonehost/phonehost/proto/phonehost/v1"
)

// Images writes images, a row each.
func Images(w io.Writer, images []*phonehostv1.Image, now time.Time) error {
	t := NewTable("NAME", "DIGEST", "SIZE", "PROFILE", "PLATFORMS", "PHONES", "CREATED")
	for _, i := range images {
		t.Row(i.GetName(), short(i.GetDigest()), Bytes(i.GetSizeBytes()), i.GetProfile(),
			strings.Join(i.GetPlatforms(), ","), strconv.Itoa(int(i.GetPhones())), Ago(i.GetCreateTime(), now))
	}
	return t.Write(w)
}

// Host writes what the host is and has, and its standing warnings.
func Host(w io.Writer, h *phonehostv1.Host, now time.Time) error {
	var f fields
	f.add("name", h.GetName())
	f.add("agent", fmt.Sprintf("%s, started %s", h.GetVersion(), Ago(h.GetStartTime(), now)))
	containerd := h.GetContainerdVersion()
	if containerd == "" {
		containerd = "does not answer"
	}
	f.add("containerd", containerd)
	f.add("kernel", h.GetKernel()+" "+h.GetArch())
	f.add("cpus", strconv.Itoa(int(h.GetCpus())))
	f.add("memory", fmt.Sprintf("%s, %s available", Bytes(h.GetMemoryBytes()), Bytes(h.GetMemoryAvailableBytes())))
	f.add("disk", fmt.Sprintf("%s, %s available", Bytes(h.GetDiskBytes()), Bytes(h.GetDiskAvailableBytes())))
	f.add("binder", binder(h.GetBinder()))
	f.add("phones", phonesByStatus(h.GetPhonesByStatus()))
	f.add("viewers", strconv.Itoa(int(h.GetViewers())))
	if err := f.write(w); err != nil {
		return err
	}
	if len(h.GetWarnings()) == 0 {
		return nil
	}
	if _, err := io.WriteString(w, "\n"); err != nil {
		return err
	}
	t := NewTable("WARNING", "SEVERITY", "SINCE", "MESSAGE")
	for _, warning := range h.GetWarnings() {
		t.Row(warning.GetName(), Severity(warning.GetSeverity()), Ago(warning.GetSince(), now), warning.GetMessage())
	}
	return t.Write(w)
}

// binder writes what the host has of binder: "pool, 1 of 2 triples free".
func binder(b *phonehostv1.Binder) string {
	switch b.GetKind() {
	case phonehostv1.BinderKind_BINDER_KIND_NONE:
		return "none"
	case phonehostv1.BinderKind_BINDER_KIND_BINDERFS:
		return "binderfs"
	case phonehostv1.BinderKind_BINDER_KIND_POOL:
		return fmt.Sprintf("pool, %d of %d triples free", b.GetTriplesFree(), b.GetTriples())
	}
	return "not known"
}

// Findings writes what the checks of the host found, each with its remedy under it.
func Findings(w io.Writer, findings []*phonehostv1.Finding) error {
	width := 0
	for _, f := range findings {
		width = max(width, len(f.GetCheck()))
	}
	var b strings.Builder
	for _, f := range findings {
		fmt.Fprintf(&b, "%-7s  %-*s  %s\n", Severity(f.GetSeverity()), width, Printable(f.GetCheck()), Printable(f.GetMessage()))
		if f.GetRemedy() != "" {
			fmt.Fprintf(&b, "%-7s  %-*s  mend: %s\n", "", width, "", Printable(f.GetRemedy()))
		}
	}
	_, err := io.WriteString(w, b.String())
	return err
}

// phonesByStatus writes the counts that are not 0: "3 (2 RUNNING: 2, 5 POWERED_OFF: 1)".
func phonesByStatus(counts []uint32) string {
	var total uint32
	var parts []string
	for n, count := range counts {
		total += count
		if count > 0 {
			parts = append(parts, fmt.Sprintf("%s: %d", Status(phonehostv1.PhoneStatus(n)), count))
		}
	}
	if len(parts) == 0 {
		return "0"
	}
	return fmt.Sprintf("%d (%s)", total, strings.Join(parts, ", "))
}
