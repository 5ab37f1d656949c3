package doctor

import (
	"testing"
	"testing/fstest"
)

func TestOnlineCPUs(t *testing.T) {
	tests := []struct {
		text string
		want uint32 // 0 is an error
	}{
		{"0\n", 1}, {"0-3\n", 4}, {"0-3,8,10-11\n", 7}, {"", 0}, {"x", 0}, {"3-1", 0}, {"0-", 0},
	}
	for _, tt := range tests {
		got, err := onlineCPUs(fstest.MapFS{"sys/devices/system/cpu/online": file(tt.text)})
		if got != tt.want || (err != nil) != (tt.want == 0) {
			t.Errorf("%q: %d, %v; want %d", tt.text, got, err, tt.want)
		}
	}
}

func TestMemory(t *testing.T) {
	root := fstest.MapFS{"proc/meminfo": file("MemTotal:       24000000 kB\nMemFree: 5 kB\nMemAvailable:   20000000 kB\nHugePages_Total:       0\n")}
	total, available, err := memory(root)
	if err != nil || total != 24000000<<10 || available != 20000000<<10 {
		t.Errorf("memory = %d, %d, %v", total, available, err)
	}
	root["proc/meminfo"] = file("MemTotal: 1 kB\n")
	if _, _, err := memory(root); err == nil {
		t.Error("no error without MemAvailable")
	}
}

func TestReadFacts(t *testing.T) {
	f, err := ReadFacts(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	if f.Kernel == "" || f.Arch == "" || f.CPUs == 0 || f.MemoryBytes < f.MemoryAvailableBytes || f.DiskBytes < f.DiskAvailableBytes {
		t.Errorf("facts %+v", f)
	}
	if _, err := ReadFacts("/nowhere"); err == nil {
		t.Error("no error for a directory that is not there")
	}
}
