package cgroup

import (
	"errors"
	"path/filepath"
	"slices"
	"strconv"

	"golang.org/x/sys/unix"
)

// limit sets what this hierarchy can limit, on the phone's cgroup and on the guest's in it.
func (h hierarchy) limit(phone string, l Limits) error {
	phone = filepath.Join(h.mount, phone)
	guest := filepath.Join(phone, "guest")
	has := func(controller string) bool { return slices.Contains(h.controllers, controller) }
	if has("cpu") {
		if err := h.limitCPU(phone, guest, l); err != nil {
			return err
		}
	}
	if has("memory") && l.MemoryBytes > 0 {
		if err := h.limitMemory(guest, l.MemoryBytes); err != nil {
			return err
		}
	}
	if has("pids") && l.PIDs > 0 {
		return write(filepath.Join(guest, "pids.max"), strconv.FormatInt(l.PIDs, 10))
	}
	return nil
}

func (h hierarchy) limitCPU(phone, guest string, l Limits) error {
	weight := uint64(l.Weight)
	if weight == 0 {
		weight = 100
	}
	file := "cpu.weight"
	if !h.v2 {
		file = "cpu.shares"
		weight = max(2, weight*1024/100)
	}
	if err := write(filepath.Join(phone, file), strconv.FormatUint(weight, 10)); err != nil {
		return err
	}
	if l.CPUQuota <= 0 {
		return nil
	}
	quota, period := strconv.FormatInt(l.CPUQuota, 10), strconv.FormatInt(l.CPUPeriod, 10)
	if h.v2 {
		return write(filepath.Join(guest, "cpu.max"), quota+" "+period)
	}
	if err := write(filepath.Join(guest, "cpu.cfs_period_us"), period); err != nil {
		return err
	}
	err := write(filepath.Join(guest, "cpu.cfs_quota_us"), quota)
	if errors.Is(err, unix.EINVAL) {
		// A lower quota than that of the container below is refused; the container's own spec limits it until it is made anew.
		return nil
	}
	return err
}

// limitMemory bounds memory, and swap to nothing where the kernel accounts it.
func (h hierarchy) limitMemory(guest string, bytes uint64) error {
	value := strconv.FormatUint(bytes, 10)
	if h.v2 {
		if err := write(filepath.Join(guest, "memory.max"), value); err != nil {
			return err
		}
		return unlessMissing(write(filepath.Join(guest, "memory.swap.max"), "0"))
	}
	limit, both := filepath.Join(guest, "memory.limit_in_bytes"), filepath.Join(guest, "memory.memsw.limit_in_bytes")
	// The limit of both may never be below that of memory: so a lower limit starts with one and a higher with the other.
	if err := write(limit, value); errors.Is(err, unix.EINVAL) {
		if err := unlessMissing(write(both, value)); err != nil {
			return err
		}
		return write(limit, value)
	} else if err != nil {
		return err
	}
	return unlessMissing(write(both, value))
}

func unlessMissing(err error) error {
	if errors.Is(err, unix.ENOENT) {
		return nil
	}
	return err
}
