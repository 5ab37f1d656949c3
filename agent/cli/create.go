package cli

import (
	"context"
	"io"

	phonehostv1 "github.com/phonehost/phonehost/proto/phonehost/v1"
)

type createCmd struct {
	ID            string            `arg:"" help:"Name of the phone on this host: 1..32 of a-z, 0-9 and hyphens."`
	Image         string            `required:"" placeholder:"IMG" help:"Image the host has, such as phonehost.dev/testphone:latest."`
	Profile       string            `placeholder:"NAME" help:"Kind of Android image. Default: what the image says."`
	VCPUs         float64           `name:"vcpus" placeholder:"N" help:"CPU time in cores, parts too. Default: 2."`
	CPUWeight     uint32            `name:"cpu-weight" placeholder:"N" help:"Share against other phones when CPUs are short, 1..10000. Default: 100."`
	Memory        size              `default:"512MiB" placeholder:"SIZE" help:"Memory limit, such as 512MiB. Default: ${default}."`
	Data          size              `placeholder:"SIZE" help:"Size of /data, such as 4GiB; it is sparse. Default: 4GiB."`
	Display       screen            `placeholder:"WxH@FPS" help:"Screen: 720x1280@30 or 720x1280@30/320dpi. Default: 720x1280@30/320dpi."`
	Property      map[string]string `mapsep:"none" placeholder:"NAME=VALUE" help:"Property that the guest's init sets; may be repeated."`
	Label         map[string]string `mapsep:"none" placeholder:"NAME=VALUE" help:"Word of yours to keep with the phone; may be repeated."`
	RestartPolicy string            `enum:"always,on-guest-reboot,never" default:"always" placeholder:"POLICY" help:"What follows when the guest ends by itself: always, on-guest-reboot or never. Default: ${default}."`
}

var restartPolicies = map[string]phonehostv1.RestartPolicy{
	"always":          phonehostv1.RestartPolicy_RESTART_POLICY_ALWAYS,
	"on-guest-reboot": phonehostv1.RestartPolicy_RESTART_POLICY_ON_GUEST_REBOOT,
	"never":           phonehostv1.RestartPolicy_RESTART_POLICY_NEVER,
}

func (c *createCmd) Run(ctx context.Context, a *app) error {
	phones, err := a.phones(ctx)
	if err != nil {
		return err
	}
	answer, err := phones.CreatePhone(ctx, &phonehostv1.CreatePhoneRequest{Spec: &phonehostv1.PhoneSpec{
		Id: c.ID, Image: c.Image, Profile: c.Profile, Vcpus: c.VCPUs, CpuWeight: c.CPUWeight,
		MemoryBytes: uint64(c.Memory), DataBytes: uint64(c.Data), Display: c.Display.spec,
		Properties: c.Property, Labels: c.Label, RestartPolicy: restartPolicies[c.RestartPolicy],
	}})
	if err != nil {
		return about(c.ID, err)
	}
	phone := answer.GetPhone()
	return a.print(phone, func(io.Writer) error {
		a.sayf("%s: created; start it: `phonectl on %s`", phone.GetSpec().GetId(), phone.GetSpec().GetId())
		return nil
	})
}
