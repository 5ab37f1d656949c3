package access

import (
	"context"
	"fmt"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/phonehost/phonehost/agent/fault"
)

// Config says how calls are judged.
type Config struct {
	// Roles gives identities their roles.
	Roles Roles
	// Denied, if set, is told of every refused call, from the goroutine of the call.
	Denied func(ctx context.Context, d Denial)
}

// Denial is one refused call.
type Denial struct {
	// Caller is who called and by which way; zero for a call that came through no door.
	Caller AuthInfo
	// Method is the full name of the RPC.
	Method string
	// Has is the caller's role.
	Has Role
	// Needs is the least role for the RPC; RoleNone if the RPC is unknown and nobody may call it.
	Needs Role
}

// Interceptors returns what a gRPC server needs to judge its calls: Credentials, one unary and one stream interceptor.
// Calls are refused with UNAUTHENTICATED when they came through no door, else with PERMISSION_DENIED, whose text names the
// identity, its role and the role needed, and whose ErrorInfo has reason ROLE_TOO_LOW and the metadata identity, role, needs
// and method. Methods that no registered service has are gRPC's to answer, with UNIMPLEMENTED.
func Interceptors(c Config) []grpc.ServerOption {
	return []grpc.ServerOption{
		grpc.Creds(Credentials()),
		grpc.ChainUnaryInterceptor(func(ctx context.Context, req any, info *grpc.UnaryServerInfo, next grpc.UnaryHandler) (any, error) {
			if err := c.Authorize(ctx, info.FullMethod); err != nil {
				return nil, err
			}
			return next(ctx, req)
		}),
		grpc.ChainStreamInterceptor(func(srv any, stream grpc.ServerStream, info *grpc.StreamServerInfo, next grpc.StreamHandler) error {
			if err := c.Authorize(stream.Context(), info.FullMethod); err != nil {
				return err
			}
			return next(srv, stream)
		}),
	}
}

// Authorize judges one call of an RPC, by its full method name: nil, or the status error that Interceptors describes.
func (c Config) Authorize(ctx context.Context, method string) error {
	caller, ok := InfoFromContext(ctx)
	needs, known := Required(method)
	has := c.Roles.Of(caller.Identity)
	if ok && known && has >= needs {
		return nil
	}
	if c.Denied != nil {
		c.Denied(ctx, Denial{Caller: caller, Method: method, Has: has, Needs: needs})
	}
	if !ok {
		return status.Errorf(codes.Unauthenticated, "%s: the call came through no door", method)
	}
	return refusal(caller.Identity, method, has, needs, known)
}

func refusal(id Identity, method string, has, needs Role, known bool) error {
	want := needs.String()
	if !known {
		want = "one that does not exist: the RPC has no entry in the role table"
	}
	text := fmt.Sprintf("%s has role %s; %s needs role %s", id, has, method, want)
	st, err := status.New(codes.PermissionDenied, text).WithDetails(&errdetails.ErrorInfo{
		Domain:   fault.Domain,
		Reason:   "ROLE_TOO_LOW",
		Metadata: map[string]string{"identity": id.String(), "role": has.String(), "needs": needs.String(), "method": method},
	})
	if err != nil {
		return status.Error(codes.PermissionDenied, text)
	}
	return st.Err()
}
