"""The protocol over gRPC, in the event loop that serves HTTP. Imported where it has a port: grpcio is an extra."""

from mcdropout.api.oip.grpc.server import GrpcServer as GrpcServer
