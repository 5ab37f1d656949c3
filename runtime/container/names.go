package container

import (
	"fmt"
	"path/filepath"
	"strconv"
	"strings"
)

// Labels of containers and snapshots.
const (
	labelPhone          = "dev.phonehost.phone"
	labelRole           = "dev.phonehost.role"
	labelProfile        = "dev.phonehost.profile"
	labelBootGeneration = "dev.phonehost.boot-generation"
	labelDataGeneration = "dev.phonehost.data-generation"
	labelImageDigest    = "dev.phonehost.image-digest"
	labelVersion        = "dev.phonehost.version"
	labelNote           = "dev.phonehost.note"
	labelBinder         = "dev.phonehost.binder"       // of guests: binder.Grant.Label
	labelHostStopped    = "dev.phonehost.host-stopped" // of guests: set by EndForHost
	// labelGCRoot keeps a snapshot that no container refers to from containerd's garbage collector.
	labelGCRoot = "containerd.io/gc.root"
)

const displaySuffix = ".display"

// containerID names a phone's container. A phone's id has no dot, so the two never meet.
func containerID(id string, role Role) string {
	if role == Display {
		return id + displaySuffix
	}
	return id
}

// phoneOf is the inverse of containerID.
func phoneOf(container string) (id string, role Role, ok bool) {
	id, display := strings.CutSuffix(container, displaySuffix)
	if display {
		role = Display
	}
	return id, role, validID(id)
}

// validID tells phones' names from anything else that may lie in a directory.
func validID(id string) bool {
	if len(id) == 0 || len(id) > 32 || strings.Contains(id, "--") || id[0] == '-' || id[len(id)-1] == '-' {
		return false
	}
	return strings.Trim(id, "abcdefghijklmnopqrstuvwxyz0123456789-") == ""
}

// snapshotKey names the root file system of a data generation made from an image: "<id>.root.<generation>.<digest>".
func snapshotKey(p Phone) string {
	_, hex, _ := strings.Cut(p.ImageDigest, ":")
	return fmt.Sprintf("%s.root.%d.%.12s", p.ID, p.DataGeneration, hex)
}

func (e *Engine) stateDir(id string) string   { return filepath.Join(e.config.StateDir, "phones", id) }
func (e *Engine) runDir(id string) string     { return filepath.Join(e.config.RunDir, "phones", id) }
func (e *Engine) logDir(id string) string     { return filepath.Join(e.config.LogDir, id) }
func (e *Engine) waylandDir(id string) string { return filepath.Join(e.runDir(id), "wayland") }
func (e *Engine) controlDir(id string) string { return filepath.Join(e.runDir(id), "display") }
func (e *Engine) filesDir(id string) string   { return filepath.Join(e.runDir(id), "files") }
func (e *Engine) execDir() string             { return filepath.Join(e.config.RunDir, "exec") }
func (e *Engine) runcRoot() string            { return filepath.Join(e.config.RunDir, "runc") }
func (e *Engine) displayRoots() string        { return filepath.Join(e.config.StateDir, "display") }

func (e *Engine) logPath(id string, role Role) string {
	return filepath.Join(e.logDir(id), role.String()+".log")
}

const (
	dataPrefix = "data-"
	dataSuffix = ".img"
)

func (e *Engine) dataImage(id string, generation uint64) string {
	return filepath.Join(e.stateDir(id), dataPrefix+strconv.FormatUint(generation, 10)+dataSuffix)
}

// dataGeneration reads the generation from the name of a data image, or of one that is half made.
func dataGeneration(name string) (uint64, bool) {
	name, ok := strings.CutPrefix(strings.TrimSuffix(name, ".new"), dataPrefix)
	if !ok {
		return 0, false
	}
	name, ok = strings.CutSuffix(name, dataSuffix)
	if !ok {
		return 0, false
	}
	n, err := strconv.ParseUint(name, 10, 64)
	return n, err == nil
}
