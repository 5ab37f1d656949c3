package cli

import (
	"context"
	"io"

	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/types/known/fieldmaskpb"

	"github.com/phonehost/phonehost/agent/cli/render"
	phonehostv1 "github.com/phonehost/phonehost/proto/phonehost/v1"
)

type dataCmd struct {
	Ls     dataLsCmd     `cmd:"" help:"Show what data volumes take, and what the host has for them."`
	Grow   dataGrowCmd   `cmd:"" help:"Make the data volume of a phone larger, at once."`
	Trim   dataTrimCmd   `cmd:"" help:"Give what data volumes do not use back to the host's disk."`
	Export dataExportCmd `cmd:"" help:"Save the data of a phone that is off as an archive."`
	Import dataImportCmd `cmd:"" help:"Give a phone that is off the data of an archive; its own is destroyed."`
}

type dataLsCmd struct {
	IDs []string `arg:"" optional:"" name:"id" help:"Only these phones."`
}

func (c *dataLsCmd) Run(ctx context.Context, a *app) error {
	data, err := a.data(ctx)
	if err != nil {
		return err
	}
	answer, err := data.ListData(ctx, &phonehostv1.ListDataRequest{PhoneIds: c.IDs})
	if err != nil {
		return about(first(c.IDs), err)
	}
	return a.print(answer, func(w io.Writer) error {
		if len(answer.GetVolumes()) == 0 {
			a.sayf("no data volumes yet: a phone gets its own when it is powered on for the first time")
			return nil
		}
		if err := render.Volumes(w, answer.GetVolumes()); err != nil {
			return err
		}
		a.sayf("%s", render.Space(answer.GetSpace()))
		return nil
	})
}

type dataGrowCmd struct {
	ID   string `arg:"" help:"The phone."`
	Size size   `arg:"" help:"The new size, such as 8GiB; a volume never shrinks."`
	waiting
}

func (c *dataGrowCmd) Run(ctx context.Context, a *app) error {
	return a.update(ctx, &phonehostv1.UpdateRequest{
		PhoneIds: []string{c.ID}, RequestId: c.RequestID, Spec: &phonehostv1.PhoneSpec{DataBytes: uint64(c.Size)},
		UpdateMask: &fieldmaskpb.FieldMask{Paths: []string{"data_bytes"}},
	}, c.waiting)
}

type dataTrimCmd struct {
	IDs []string `arg:"" name:"id" help:"The phones, up to 100; running or off."`
}

func (c *dataTrimCmd) Run(ctx context.Context, a *app) error {
	data, err := a.data(ctx)
	if err != nil {
		return err
	}
	answer, err := data.TrimData(ctx, &phonehostv1.TrimDataRequest{PhoneIds: c.IDs})
	if err != nil {
		return err
	}
	bad := 0
	err = a.print(answer, func(io.Writer) error {
		for _, r := range answer.GetResults() {
			if f := r.GetFailure(); f != nil {
				a.sayf("%s: not trimmed: %s", r.GetPhoneId(), render.Printable(f.GetMessage()))
				if remedy := remedyFor(codes.Code(f.GetCode()), f.GetReason(), r.GetPhoneId(), nil); remedy != "" {
					a.sayf("  %s: %s", r.GetPhoneId(), remedy)
				}
				continue
			}
			a.sayf("%s: %s trimmed", r.GetPhoneId(), render.Bytes(r.GetTrimmedBytes()))
		}
		return nil
	})
	for _, r := range answer.GetResults() {
		if r.GetFailure() != nil {
			bad++
		}
	}
	if err == nil && bad > 0 {
		err = exitError{code: exitFailed}
	}
	return err
}
