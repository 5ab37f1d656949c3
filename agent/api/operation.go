package api

import (
	"context"

	"google.golang.org/grpc"

	"github.com/phonehost/phonehost/agent/fault"
	"github.com/phonehost/phonehost/agent/operation"
	phonehostv1 "github.com/phonehost/phonehost/proto/phonehost/v1"
)

const (
	// defaultOperations is how many operations ListOperations returns where the caller does not say.
	defaultOperations = 100
	// maxOperations is how many it returns at most.
	maxOperations = 1000
)

// NewOperationServer returns OperationService over the operations of this host.
func NewOperationServer(ops *operation.Table) phonehostv1.OperationServiceServer {
	return &operationServer{ops: ops}
}

type operationServer struct {
	phonehostv1.UnimplementedOperationServiceServer
	ops *operation.Table
}

func (s *operationServer) GetOperation(_ context.Context, q *phonehostv1.GetOperationRequest) (*phonehostv1.GetOperationResponse, error) {
	op, err := s.ops.Get(q.GetOperationId())
	if err != nil {
		return nil, statusError(err)
	}
	return &phonehostv1.GetOperationResponse{Operation: operationToProto(op)}, nil
}

func (s *operationServer) ListOperations(_ context.Context, q *phonehostv1.ListOperationsRequest) (*phonehostv1.ListOperationsResponse, error) {
	limit := q.GetLimit()
	if limit > maxOperations {
		return nil, statusError(fault.Field("limit", "%d must be 1..%d, or 0 for %d", limit, maxOperations, defaultOperations))
	}
	if limit == 0 {
		limit = defaultOperations
	}
	ops, err := s.ops.List(operation.ListOptions{PhoneID: q.GetPhoneId(), RunningOnly: q.GetRunningOnly(), Limit: int(limit)})
	if err != nil {
		return nil, statusError(err)
	}
	answer := &phonehostv1.ListOperationsResponse{Operations: make([]*phonehostv1.Operation, 0, len(ops))}
	for _, op := range ops {
		answer.Operations = append(answer.Operations, operationToProto(op))
	}
	return answer, nil
}

func (s *operationServer) Watch(q *phonehostv1.OperationServiceWatchRequest, stream grpc.ServerStreamingServer[phonehostv1.OperationServiceWatchResponse]) error {
	return statusError(s.ops.Watch(stream.Context(), q.GetOperationId(), func(op operation.Operation) error {
		return stream.Send(&phonehostv1.OperationServiceWatchResponse{Operation: operationToProto(op)})
	}))
}
