package phone

import (
	"maps"
	"math"
	"slices"
	"strings"
	"time"

	"github.com/phonehost/phonehost/agent/fault"
	"github.com/phonehost/phonehost/runtime/profile"
)

// maxPatchFields bounds the fields of a patch: every map key may be named, and twice is no use.
const maxPatchFields = 512

// Patch is what an Update changes: those fields of a spec that are named.
type Patch struct {
	// Spec holds the new values.
	Spec Spec `json:"spec"`
	// Fields names the fields that count, as the API's PhoneSpec names them: "memory_bytes"; a message whole or by a field, "display",
	// "display.dpi"; a map whole or by a key, "labels", "labels.user".
	Fields []string `json:"fields"`
}

// patchFields is how each field that may change goes from one spec to another.
var patchFields = map[string]func(to, from *Spec){
	"vcpus":              func(to, from *Spec) { to.VCPUs = from.VCPUs },
	"cpu_weight":         func(to, from *Spec) { to.CPUWeight = from.CPUWeight },
	"memory_bytes":       func(to, from *Spec) { to.MemoryBytes = from.MemoryBytes },
	"data_bytes":         func(to, from *Spec) { to.DataBytes = from.DataBytes },
	"display":            func(to, from *Spec) { to.Display = from.Display },
	"display.width":      func(to, from *Spec) { to.Display.Width = from.Display.Width },
	"display.height":     func(to, from *Spec) { to.Display.Height = from.Display.Height },
	"display.dpi":        func(to, from *Spec) { to.Display.DPI = from.Display.DPI },
	"display.max_fps":    func(to, from *Spec) { to.Display.MaxFPS = from.Display.MaxFPS },
	"properties":         func(to, from *Spec) { to.Properties = maps.Clone(from.Properties) },
	"labels":             func(to, from *Spec) { to.Labels = maps.Clone(from.Labels) },
	"restart_policy":     func(to, from *Spec) { to.RestartPolicy = from.RestartPolicy },
	"lease":              func(to, from *Spec) { to.Lease = from.Lease },
	"lease.expires_at":   func(to, from *Spec) { to.Lease.ExpiresAt = from.Lease.ExpiresAt },
	"lease.retain_until": func(to, from *Spec) { to.Lease.RetainUntil = from.Lease.RetainUntil },
}

// fixedFields says of the fields that never change what to do instead.
var fixedFields = map[string]string{
	"id":      "create another phone, with clone_from if it should have this one's data",
	"profile": "create another phone",
	"image":   "Restart and Reset take an image",
	"network": "NetworkPolicyService changes policy, limits and forwards; the addresses stay",

	"app_list": "AppListService puts phones on lists and takes them off",
}

// mapFields are the fields whose keys may be named.
var mapFields = map[string]func(*Spec) *map[string]string{
	"labels":     func(s *Spec) *map[string]string { return &s.Labels },
	"properties": func(s *Spec) *map[string]string { return &s.Properties },
}

// check refuses a patch that is wrong whatever the phone is.
func (p *Patch) check() error {
	if p == nil || len(p.Fields) == 0 {
		return fault.Field("update_mask", "must name at least one field")
	}
	if len(p.Fields) > maxPatchFields {
		return fault.Field("update_mask", "%d fields are more than %d", len(p.Fields), maxPatchFields)
	}
	for _, field := range p.Fields {
		name, key, isKey := strings.Cut(field, ".")
		if instead, fixed := fixedFields[name]; fixed {
			return fault.Field("spec."+field, "cannot be changed: %s", instead)
		}
		if isKey && key == "" && mapFields[name] != nil {
			return fault.Field("update_mask", "%q: a name in %s must not be empty", field, name)
		}
		if _, key := mapKey(field); patchFields[field] == nil && key == "" {
			return fault.Field("update_mask", "%q is not a field that can be changed; those are: %s", fault.Clip(field), strings.Join(patchNames(), ", "))
		}
	}
	return nil
}

// patchNames are the fields that may be named, but for keys of maps.
func patchNames() []string { return slices.Sorted(maps.Keys(patchFields)) }

// mapKey splits the name of a map's key; key is "" for anything else.
func mapKey(field string) (name, key string) {
	name, key, _ = strings.Cut(field, ".")
	if mapFields[name] == nil {
		return "", ""
	}
	return name, key
}

// names reports whether the patch names a field, or a part of it.
func (p *Patch) names(field string) bool {
	return slices.ContainsFunc(p.Fields, func(f string) bool { return f == field || strings.HasPrefix(f, field+".") })
}

// applied returns a spec with the patch applied; numbers that are named and 0 get their defaults.
func (p *Patch) applied(spec Spec, host Capacity) Spec {
	for _, field := range p.Fields {
		name, key := mapKey(field)
		if key == "" {
			patchFields[field](&spec, &p.Spec)
			continue
		}
		to, from := mapFields[name](&spec), mapFields[name](&p.Spec)
		changed := maps.Clone(*to)
		if value, has := (*from)[key]; has {
			if changed == nil {
				changed = map[string]string{}
			}
			changed[key] = value
		} else {
			delete(changed, key)
		}
		*to = changed
	}
	return spec.WithDefaults(host)
}

// checkUpdate refuses a patch that a phone cannot have.
func (s *Supervisor) checkUpdate(r *Record, p *Patch) error {
	spec := p.applied(r.Spec, s.cfg.Host)
	// A host that has become smaller keeps nobody from renewing a lease.
	host := s.cfg.Host
	if !p.names("vcpus") {
		host.CPUs = max(host.CPUs, int(math.Ceil(r.Spec.VCPUs)))
	}
	if !p.names("memory_bytes") {
		host.MemoryBytes = max(host.MemoryBytes, r.Spec.MemoryBytes)
	}
	if err := spec.Validate(host); err != nil {
		return err
	}
	if spec.DataBytes < r.Spec.DataBytes {
		return fault.Field("spec.data_bytes", "%d is less than the present %d: a data volume cannot shrink; export the data and import it into a smaller phone",
			spec.DataBytes, r.Spec.DataBytes)
	}
	if spec.DataBytes > r.Spec.DataBytes && len(r.Readers) > 0 {
		return busyWith(r, Stopped, beingCopied)
	}
	if err := p.checkProperties(spec); err != nil {
		return err
	}
	if p.names("lease") && !spec.Lease.ExpiresAt.Equal(r.Spec.Lease.ExpiresAt) {
		return spec.Lease.checkAhead(s.wall())
	}
	return nil
}

// checkProperties refuses properties that the phone's profile cannot be given. Those of a spec that the patch does not touch are left: an
// older release may have stored them.
func (p *Patch) checkProperties(spec Spec) error {
	if !p.names("properties") {
		return nil
	}
	kind, err := profile.Get(spec.Profile)
	if err != nil {
		return fault.Field("spec.properties", "%v", err)
	}
	return checkProperties(kind, spec.Properties)
}

// update changes the spec, and what follows from it.
func (r *Record) update(p *Patch, host Capacity, wall time.Time) applied {
	before, after := r.Spec, p.applied(r.Spec, host)
	r.Spec = after
	did := applied{fields: before.differences(after)}
	if before.VCPUs != after.VCPUs || before.CPUWeight != after.CPUWeight || before.MemoryBytes != after.MemoryBytes {
		r.LimitsAsked++
	}
	if after.DataBytes > before.DataBytes {
		r.GrowFrom = orDefault(r.GrowFrom, before.DataBytes)
	}
	if p.names("lease") && !after.Lease.Over(wall) && r.frozenFor(FrozenExpired) {
		did.unfrozen = r.unfreeze([]FreezeReason{FrozenExpired})
	}
	return did
}

// changed reports whether all that an Update asked for and that can be had at once is there.
func (r *Record) changed() bool { return r.GrowFrom == 0 && r.LimitsSet == r.LimitsAsked }

// differences names the fields in which two specs of a phone differ, in the order of the API.
func (s Spec) differences(o Spec) []string {
	var fields []string
	for _, f := range []struct {
		name string
		same bool
	}{
		{"vcpus", s.VCPUs == o.VCPUs}, {"cpu_weight", s.CPUWeight == o.CPUWeight}, {"memory_bytes", s.MemoryBytes == o.MemoryBytes},
		{"data_bytes", s.DataBytes == o.DataBytes}, {"display", s.Display == o.Display}, {"properties", maps.Equal(s.Properties, o.Properties)},
		{"labels", maps.Equal(s.Labels, o.Labels)}, {"restart_policy", s.RestartPolicy == o.RestartPolicy}, {"lease", s.Lease.equal(o.Lease)},
	} {
		if !f.same {
			fields = append(fields, f.name)
		}
	}
	return fields
}
