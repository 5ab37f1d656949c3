package cli

import (
	"context"
	"maps"
	"slices"
	"time"

	"google.golang.org/protobuf/types/known/fieldmaskpb"

	phonehostv1 "github.com/phonehost/phonehost/proto/phonehost/v1"
)

type setCmd struct {
	IDs            []string          `arg:"" name:"id" help:"The phones, up to 100."`
	VCPUs          *float64          `name:"vcpus" placeholder:"N" help:"CPU time in cores, parts too; at once."`
	CPUWeight      *uint32           `name:"cpu-weight" placeholder:"N" help:"Share against other phones when CPUs are short; at once."`
	Memory         *size             `placeholder:"SIZE" help:"Memory limit; more at once, less at the next start."`
	Data           *size             `placeholder:"SIZE" help:"Size of /data, at once; it only grows."`
	Display        *screen           `placeholder:"WxH@FPS" help:"Screen, at the next start."`
	Property       map[string]string `mapsep:"none" placeholder:"NAME=VALUE" help:"Property, at the next start; may be repeated. The others stay."`
	RemoveProperty []string          `placeholder:"NAME" help:"Remove a property, at the next start; may be repeated."`
	Label          map[string]string `mapsep:"none" placeholder:"NAME=VALUE" help:"Label, at once; may be repeated. The others stay."`
	RemoveLabel    []string          `placeholder:"NAME" help:"Remove a label; may be repeated."`
	RestartPolicy  *string           `enum:"always,on-guest-reboot,never" placeholder:"POLICY" help:"What follows when the guest ends by itself; at once."`
	leasing
	waiting
}

// leasing are the flags of a lease.
type leasing struct {
	Expires     *moment `placeholder:"WHEN" help:"When the phone is powered off and frozen: 24h, 30d, 2026-02-01T12:00:00Z, or never."`
	RetainUntil *moment `placeholder:"WHEN" help:"How long its data is promised to be kept; it is only reported."`
}

// patch adds the fields that are given to an update.
func (l leasing) patch(q *phonehostv1.UpdateRequest, now time.Time) {
	if l.Expires == nil && l.RetainUntil == nil {
		return
	}
	q.Spec.Lease = &phonehostv1.Lease{ExpiresAt: l.Expires.proto(now), RetainUntil: l.RetainUntil.proto(now)}
	if l.Expires != nil {
		mask(q, "lease.expires_at")
	}
	if l.RetainUntil != nil {
		mask(q, "lease.retain_until")
	}
}

// lease returns the lease of a new phone, nil for none.
func (l leasing) lease(now time.Time) *phonehostv1.Lease {
	if l.Expires == nil && l.RetainUntil == nil {
		return nil
	}
	return &phonehostv1.Lease{ExpiresAt: l.Expires.proto(now), RetainUntil: l.RetainUntil.proto(now)}
}

// mask names fields that an update changes.
func mask(q *phonehostv1.UpdateRequest, fields ...string) {
	q.UpdateMask.Paths = append(q.UpdateMask.Paths, fields...)
}

func (c *setCmd) Run(ctx context.Context, a *app) error {
	q := c.request(a.now())
	if len(q.GetUpdateMask().GetPaths()) == 0 {
		return usagef("set needs something to set, such as --memory 1GiB: see `phonectl set --help`")
	}
	return a.update(ctx, q, c.waiting)
}

// request makes the update of what is given.
func (c *setCmd) request(now time.Time) *phonehostv1.UpdateRequest {
	q := &phonehostv1.UpdateRequest{
		PhoneIds: c.IDs, RequestId: c.RequestID, UpdateMask: &fieldmaskpb.FieldMask{},
		Spec: &phonehostv1.PhoneSpec{Properties: c.Property, Labels: c.Label},
	}
	if c.VCPUs != nil {
		q.Spec.Vcpus = *c.VCPUs
		mask(q, "vcpus")
	}
	if c.CPUWeight != nil {
		q.Spec.CpuWeight = *c.CPUWeight
		mask(q, "cpu_weight")
	}
	if c.Memory != nil {
		q.Spec.MemoryBytes = uint64(*c.Memory)
		mask(q, "memory_bytes")
	}
	if c.Data != nil {
		q.Spec.DataBytes = uint64(*c.Data)
		mask(q, "data_bytes")
	}
	if c.Display != nil {
		q.Spec.Display = c.Display.spec
		mask(q, c.Display.fields()...)
	}
	for _, name := range slices.Concat(slices.Sorted(maps.Keys(c.Property)), c.RemoveProperty) {
		mask(q, "properties."+name)
	}
	for _, name := range slices.Concat(slices.Sorted(maps.Keys(c.Label)), c.RemoveLabel) {
		mask(q, "labels."+name)
	}
	if c.RestartPolicy != nil {
		q.Spec.RestartPolicy = restartPolicies[*c.RestartPolicy]
		mask(q, "restart_policy")
	}
	c.patch(q, now)
	return q
}

// fields names the parts of the screen that are given.
func (s screen) fields() []string {
	fields := []string{"display.width", "display.height"}
	if s.spec.GetMaxFps() != 0 {
		fields = append(fields, "display.max_fps")
	}
	if s.spec.GetDpi() != 0 {
		fields = append(fields, "display.dpi")
	}
	return fields
}

type renewCmd struct {
	IDs         []string `arg:"" name:"id" help:"The phones, up to 100."`
	Expires     *moment  `required:"" placeholder:"WHEN" help:"The new end of the lease: 24h, 30d, 2026-02-01T12:00:00Z, or never."`
	RetainUntil *moment  `placeholder:"WHEN" help:"How long the data is promised to be kept; it is only reported."`
	waiting
}

func (c *renewCmd) Run(ctx context.Context, a *app) error {
	q := &phonehostv1.UpdateRequest{
		PhoneIds: c.IDs, RequestId: c.RequestID, Spec: &phonehostv1.PhoneSpec{}, UpdateMask: &fieldmaskpb.FieldMask{},
	}
	leasing{Expires: c.Expires, RetainUntil: c.RetainUntil}.patch(q, a.now())
	return a.update(ctx, q, c.waiting)
}

// update asks for an update and follows it to its end.
func (a *app) update(ctx context.Context, q *phonehostv1.UpdateRequest, flags waiting) error {
	phones, err := a.phones(ctx)
	if err != nil {
		return err
	}
	answer, err := phones.Update(ctx, q)
	if err != nil {
		return aboutAll(q.GetPhoneIds(), err)
	}
	return a.finish(ctx, answer.GetOperation(), flags)
}
