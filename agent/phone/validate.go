package phone

import (
	"math"
	"regexp"
	"slices"
	"strings"

	"github.com/phonehost/phonehost/agent/fault"
)

// Sizes that a spec may name.
const (
	minMemory      = 64 << 20
	minData        = 64 << 20
	maxData        = 16 << 40 // the largest ext4 file with 4 KiB blocks
	dataBlock      = 4096
	maxPixels      = 3840 * 2160
	maxProperties  = 256
	maxLabels      = 64
	maxLabelName   = 63
	maxValue       = 256
	maxImage       = 512
	minSide        = 240
	maxSide        = 4096
	defaultVCPUs   = 2
	defaultData    = 4 << 30
	defaultWeight  = 100
	defaultWidth   = 720
	defaultHeight  = 1280
	defaultDPI     = 320
	defaultMaxFPS  = 30
	maxIDLength    = 32
	minVCPUs       = 0.1
	maxCPUWeight   = 10000
	maxFPS         = 120
	minDPI, maxDPI = 72, 960
)

var (
	idPattern       = regexp.MustCompile(`^[a-z0-9]+(-[a-z0-9]+)*$`)
	propertyPattern = regexp.MustCompile(`^[A-Za-z0-9._-]{1,128}$`)
)

// Capacity is what the host has, as far as a spec is limited by it.
type Capacity struct {
	// CPUs is the number of cores that are online.
	CPUs int
	// MemoryBytes is the host's memory.
	MemoryBytes uint64
}

// ValidID reports whether a string can name a phone.
func ValidID(id string) bool {
	return len(id) <= maxIDLength && idPattern.MatchString(id)
}

// WithDefaults returns the spec with every default that does not depend on the image filled in.
func (s Spec) WithDefaults(host Capacity) Spec {
	if s.VCPUs == 0 {
		s.VCPUs = min(defaultVCPUs, float64(host.CPUs))
	}
	s.CPUWeight = orDefault(s.CPUWeight, defaultWeight)
	s.DataBytes = orDefault(s.DataBytes, defaultData)
	if s.DataBytes <= maxData {
		s.DataBytes = (s.DataBytes + dataBlock - 1) / dataBlock * dataBlock
	}
	s.Display.Width = orDefault(s.Display.Width, defaultWidth)
	s.Display.Height = orDefault(s.Display.Height, defaultHeight)
	s.Display.DPI = orDefault(s.Display.DPI, defaultDPI)
	s.Display.MaxFPS = orDefault(s.Display.MaxFPS, defaultMaxFPS)
	s.RestartPolicy = orDefault(s.RestartPolicy, Always)
	s.Network = s.Network.withDefaults()
	return s
}

// orDefault returns v, or d where v is zero.
func orDefault[T comparable](v, d T) T {
	var zero T
	if v == zero {
		return d
	}
	return v
}

// Validate checks a spec whose defaults are filled in. The error is a fault of class ErrInvalidArgument that names the first
// field that is wrong and what would be right. Whether image and profile exist is not checked here.
func (s Spec) Validate(host Capacity) error {
	for _, check := range []func(Capacity) error{s.checkNames, s.checkSizes, s.checkDisplay, s.checkWords, s.checkNetwork} {
		if err := check(host); err != nil {
			return err
		}
	}
	return nil
}

func (s Spec) checkNames(Capacity) error {
	if !ValidID(s.ID) {
		return fault.Field("spec.id", "%q must be 1..%d characters of [a-z0-9-], begin and end with a letter or a digit, and have no two hyphens together", fault.Clip(s.ID), maxIDLength)
	}
	if s.Image == "" || len(s.Image) > maxImage {
		return fault.Field("spec.image", "must name an image of this host, in 1..%d characters", maxImage)
	}
	if s.RestartPolicy < Always || s.RestartPolicy > Never {
		return fault.Field("spec.restart_policy", "%d is not a restart policy", s.RestartPolicy)
	}
	return nil
}

func (s Spec) checkSizes(host Capacity) error {
	if math.IsNaN(s.VCPUs) || s.VCPUs < minVCPUs || s.VCPUs > float64(host.CPUs) {
		return fault.Field("spec.vcpus", "%g must be %g..%d, the cores of this host", s.VCPUs, minVCPUs, host.CPUs)
	}
	if s.CPUWeight > maxCPUWeight {
		return fault.Field("spec.cpu_weight", "%d must be 1..%d", s.CPUWeight, maxCPUWeight)
	}
	if s.MemoryBytes < minMemory || s.MemoryBytes > host.MemoryBytes {
		return fault.Field("spec.memory_bytes", "%d must be %d..%d, the memory of this host", s.MemoryBytes, minMemory, host.MemoryBytes)
	}
	if s.DataBytes < minData || s.DataBytes > maxData {
		return fault.Field("spec.data_bytes", "%d must be %d..%d", s.DataBytes, minData, uint64(maxData))
	}
	return nil
}

func (s Spec) checkDisplay(Capacity) error {
	d := s.Display
	for _, side := range []struct {
		field string
		value uint32
	}{{"spec.display.width", d.Width}, {"spec.display.height", d.Height}} {
		if side.value < minSide || side.value > maxSide || side.value%2 != 0 {
			return fault.Field(side.field, "%d must be even and %d..%d pixels", side.value, minSide, maxSide)
		}
	}
	if uint64(d.Width)*uint64(d.Height) > maxPixels {
		return fault.Field("spec.display", "%d x %d is more than 3840 x 2160 pixels", d.Width, d.Height)
	}
	if d.DPI < minDPI || d.DPI > maxDPI {
		return fault.Field("spec.display.dpi", "%d must be %d..%d", d.DPI, minDPI, maxDPI)
	}
	if d.MaxFPS > maxFPS {
		return fault.Field("spec.display.max_fps", "%d must be 1..%d", d.MaxFPS, maxFPS)
	}
	return nil
}

func (s Spec) checkWords(Capacity) error {
	if len(s.Properties) > maxProperties {
		return fault.Field("spec.properties", "%d properties are more than %d", len(s.Properties), maxProperties)
	}
	if len(s.Labels) > maxLabels {
		return fault.Field("spec.labels", "%d labels are more than %d", len(s.Labels), maxLabels)
	}
	for _, name := range sortedNames(s.Properties) {
		if !propertyPattern.MatchString(name) {
			return fault.Field("spec.properties", "name %q must be 1..128 characters of [A-Za-z0-9._-]", fault.Clip(name))
		}
		if v := s.Properties[name]; len(v) > maxValue || strings.ContainsAny(v, "\x00\n") {
			return fault.Field("spec.properties", "value of %q must be at most %d bytes on one line", name, maxValue)
		}
	}
	for _, name := range sortedNames(s.Labels) {
		if name == "" || len(name) > maxLabelName {
			return fault.Field("spec.labels", "name %q must be 1..%d bytes", fault.Clip(name), maxLabelName)
		}
		if len(s.Labels[name]) > maxValue {
			return fault.Field("spec.labels", "value of %q must be at most %d bytes", name, maxValue)
		}
	}
	return nil
}

// sortedNames returns the keys in order, so that the same spec always gives the same error.
func sortedNames(m map[string]string) []string {
	names := make([]string, 0, len(m))
	for name := range m {
		names = append(names, name)
	}
	slices.Sort(names)
	return names
}
