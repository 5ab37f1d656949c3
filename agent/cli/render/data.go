package render

import (
	"fmt"
	"io"
	"time"

	phonehostv1 "github.com/phonehost/phonehost/proto/phonehost/v1"
)

// Volumes writes the usage of data volumes, a row each.
func Volumes(w io.Writer, volumes []*phonehostv1.DataVolume) error {
	t := NewTable("ID", "GENERATION", "SIZE", "ON DISK", "USED", "FREE", "FILES", "MOUNTED")
	for _, v := range volumes {
		mounted := "no"
		if v.GetLive() {
			mounted = "yes"
		}
		used := v.GetCapacityBytes() - min(v.GetFreeBytes(), v.GetCapacityBytes())
		files := v.GetFiles() - min(v.GetFreeFiles(), v.GetFiles())
		t.Row(v.GetPhoneId(), fmt.Sprint(v.GetGeneration()), Bytes(v.GetSizeBytes()), Bytes(v.GetAllocatedBytes()), Bytes(used), Bytes(v.GetFreeBytes()),
			fmt.Sprint(files), mounted)
	}
	return t.Write(w)
}

// Space sets what is promised to phones against what the host has, in a line.
func Space(s *phonehostv1.DataSpace) string {
	volumes := "1 volume"
	if s.GetVolumes() != 1 {
		volumes = fmt.Sprintf("%d volumes", s.GetVolumes())
	}
	text := fmt.Sprintf("host: %s, %s promised, %s on disk; %s of %s free; overcommit %.2f", volumes, Bytes(s.GetPromisedBytes()), Bytes(s.GetAllocatedBytes()),
		Bytes(s.GetHostFreeBytes()), Bytes(s.GetHostBytes()), s.GetOvercommit())
	if s.GetOvercommit() > 1 {
		text += ": they cannot all be filled"
	}
	return text
}

// Manifest describes an archive of data in a line: whose it is, of what, and how much.
func Manifest(m *phonehostv1.DataManifest) string {
	android := ""
	if v := m.GetAndroidVersion(); v != "" {
		android = ", Android " + v
	}
	text := fmt.Sprintf("data of %s (%s%s) of %s: %d files, %s", m.GetPhoneId(), m.GetProfile(), android, m.GetCreateTime().AsTime().UTC().Format(time.RFC3339),
		m.GetEntries(), Bytes(m.GetContentBytes()))
	if n := m.GetLeftOut(); n > 0 {
		text += fmt.Sprintf("; %d left out (devices, sockets, too deep)", n)
	}
	return Printable(text)
}
