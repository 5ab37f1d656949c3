package api

import (
	"context"
	"errors"
	"strings"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/protoadapt"

	"github.com/phonehost/phonehost/agent/fault"
)

// maxErrorText bounds the text of a status, which travels in a header.
const maxErrorText = 2048

// statusError turns an error into a gRPC status: its code from the error's class, its details from the error's reason. nil stays
// nil, and an error that is a status already stays as it is.
func statusError(err error) error {
	if err == nil {
		return nil
	}
	if _, is := status.FromError(err); is {
		return err
	}
	switch {
	case errors.Is(err, context.Canceled) && fault.Reason(err) == "":
		return status.Error(codes.Canceled, "the call was cancelled")
	case errors.Is(err, context.DeadlineExceeded) && fault.Reason(err) == "":
		return status.Error(codes.DeadlineExceeded, "the call's deadline has passed")
	}
	st := status.New(fault.Code(err), clipText(err.Error()))
	details := errorDetails(err)
	if len(details) == 0 {
		return st.Err()
	}
	detailed, detailErr := st.WithDetails(details...)
	if detailErr != nil {
		return st.Err()
	}
	return detailed.Err()
}

// errorDetails returns what a program reads of an error: its reason, and the field that is wrong.
func errorDetails(err error) []protoadapt.MessageV1 {
	reason := fault.Reason(err)
	if reason == "" {
		return nil
	}
	meta := fault.Meta(err)
	details := []protoadapt.MessageV1{&errdetails.ErrorInfo{Domain: fault.Domain, Reason: reason, Metadata: meta}}
	if field := meta["field"]; field != "" {
		details = append(details, &errdetails.BadRequest{FieldViolations: []*errdetails.BadRequest_FieldViolation{
			{Field: field, Description: clipText(err.Error())},
		}})
	}
	return details
}

// clipText keeps a status short enough for a header and valid UTF-8, whatever a guest's or a library's error holds.
func clipText(text string) string {
	if len(text) > maxErrorText {
		text = text[:maxErrorText] + "..."
	}
	return strings.ToValidUTF8(text, "\uFFFD")
}
