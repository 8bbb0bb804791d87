// AccessService: tokens, enrolments, revocation, the audit log.
#include <fmt/format.h>

#include "bitrung/v1/access_service.grpc.pb.h"
#include "db/base/status.h"
#include "server/rpc/page.h"
#include "server/rpc/services.h"

namespace bitrung::rpc {
namespace {

constexpr std::string_view kWhoAmI = "bitrung.v1.AccessService/WhoAmI";
constexpr std::string_view kCreateToken = "bitrung.v1.AccessService/CreateToken";
constexpr std::string_view kListTokens = "bitrung.v1.AccessService/ListTokens";
constexpr std::string_view kRevokeToken = "bitrung.v1.AccessService/RevokeToken";
constexpr std::string_view kCreateEnrolment = "bitrung.v1.AccessService/CreateEnrolment";
constexpr std::string_view kRevokeWorker = "bitrung.v1.AccessService/RevokeWorker";
constexpr std::string_view kListAudit = "bitrung.v1.AccessService/ListAudit";

void to_proto(const db::TokenRow& row, v1::Token& out) {
  out.set_id(row.id);
  out.set_name(row.name);
  out.set_role(row.role);
  out.set_created_by(row.created_by);
  out.set_created_at_ms(row.created_at_ms);
  out.set_expires_at_ms(row.expires_at_ms);
  out.set_revoked_at_ms(row.revoked_at_ms);
}

void to_proto(const db::AuditRow& row, v1::AuditEntry& out) {
  out.set_id(row.id);
  out.set_time_ms(row.at_ms);
  out.set_name(row.name);
  out.set_credential(row.credential);
  out.set_address(row.address);
  out.set_method(row.method);
  out.set_subject(row.subject);
}

class AccessServiceImpl final : public v1::AccessService::CallbackService {
 public:
  explicit AccessServiceImpl(const Context& context) : context_(context) {}

  grpc::ServerUnaryReactor* WhoAmI(grpc::CallbackServerContext* call, const v1::WhoAmIRequest*,
                                   v1::WhoAmIResponse* response) override {
    return answer_now(context_, {call, kWhoAmI}, [response](const auth::Caller& caller) {
      response->set_name(std::string(caller.name()));
      response->set_role(std::string(auth::name(caller.role())));
      response->set_expires_at_ms(caller.expires_at_ms());
      return absl::OkStatus();
    });
  }

  grpc::ServerUnaryReactor* CreateToken(grpc::CallbackServerContext* call,
                                        const v1::CreateTokenRequest* request,
                                        v1::CreateTokenResponse* response) override {
    const std::string subject = fmt::format("{} as {}", request->name(), request->role());
    return answer_now(context_, {call, kCreateToken, subject},
                      [this, request, response](const auth::Caller& caller) -> absl::Status {
                        BITRUNG_ASSIGN_OR_RETURN(auth::AccessControl* const access, find_access());
                        BITRUNG_ASSIGN_OR_RETURN(
                            const auth::NewToken token,
                            access->create_token(request->name(), request->role(),
                                                 std::chrono::seconds(request->lifetime_seconds()),
                                                 caller.name()));
                        response->set_token(token.text);
                        to_proto(token.row, *response->mutable_facts());
                        response->set_address(access->address());
                        response->set_authority_pem(access->authority_pem());
                        return absl::OkStatus();
                      });
  }

  grpc::ServerUnaryReactor* ListTokens(grpc::CallbackServerContext* call,
                                       const v1::ListTokensRequest*,
                                       v1::ListTokensResponse* response) override {
    return answer_now(context_, {call, kListTokens}, [this, response]() -> absl::Status {
      BITRUNG_ASSIGN_OR_RETURN(auth::AccessControl* const access, find_access());
      for (const db::TokenRow& row : access->tokens()) to_proto(row, *response->add_tokens());
      return absl::OkStatus();
    });
  }

  grpc::ServerUnaryReactor* RevokeToken(grpc::CallbackServerContext* call,
                                        const v1::RevokeTokenRequest* request,
                                        v1::RevokeTokenResponse* response) override {
    return answer_now(
        context_, {call, kRevokeToken, request->id()}, [this, request, response]() -> absl::Status {
          BITRUNG_ASSIGN_OR_RETURN(auth::AccessControl* const access, find_access());
          BITRUNG_ASSIGN_OR_RETURN(const db::TokenRow row, access->revoke_token(request->id()));
          to_proto(row, *response->mutable_token());
          return absl::OkStatus();
        });
  }

  grpc::ServerUnaryReactor* CreateEnrolment(grpc::CallbackServerContext* call,
                                            const v1::CreateEnrolmentRequest* request,
                                            v1::CreateEnrolmentResponse* response) override {
    return answer_now(context_, {call, kCreateEnrolment, request->worker()},
                      [this, request, response](const auth::Caller& caller) -> absl::Status {
                        BITRUNG_ASSIGN_OR_RETURN(auth::AccessControl* const access, find_access());
                        BITRUNG_ASSIGN_OR_RETURN(
                            const auth::NewEnrolment enrolment,
                            access->create_enrolment(request->worker(), caller.name()));
                        response->set_token(enrolment.text);
                        response->set_expires_at_ms(enrolment.expires_at_ms);
                        response->set_address(access->address());
                        response->set_authority_pem(access->authority_pem());
                        return absl::OkStatus();
                      });
  }

  // Its caller has no login yet; the enrolment in the request takes its place.
  grpc::ServerUnaryReactor* EnrolWorker(grpc::CallbackServerContext* call,
                                        const v1::EnrolWorkerRequest* request,
                                        v1::EnrolWorkerResponse* response) override {
    grpc::ServerUnaryReactor* const reactor = call->DefaultReactor();
    absl::Status status = enrol(*request, context_.authority.address_of(*call), *response);
    if (absl::IsUnauthenticated(status)) {
      const absl::Status limit = context_.authority.add_failed_login(*call);
      if (!limit.ok()) status = limit;
    }
    reactor->Finish(to_grpc(status));
    return reactor;
  }

  grpc::ServerUnaryReactor* RevokeWorker(grpc::CallbackServerContext* call,
                                         const v1::RevokeWorkerRequest* request,
                                         v1::RevokeWorkerResponse* response) override {
    return answer_now(context_, {call, kRevokeWorker, request->worker()},
                      [this, request, response]() -> absl::Status {
                        BITRUNG_ASSIGN_OR_RETURN(auth::AccessControl* const access, find_access());
                        BITRUNG_ASSIGN_OR_RETURN(const std::uint32_t revoked,
                                                 access->revoke_worker(request->worker()));
                        response->set_revoked(revoked);
                        return absl::OkStatus();
                      });
  }

  grpc::ServerUnaryReactor* ListAudit(grpc::CallbackServerContext* call,
                                      const v1::ListAuditRequest* request,
                                      v1::ListAuditResponse* response) override {
    return answer_now(context_, {call, kListAudit}, [this, request, response]() -> absl::Status {
      BITRUNG_ASSIGN_OR_RETURN(auth::AccessControl* const access, find_access());
      BITRUNG_ASSIGN_OR_RETURN(const Page page,
                               parse_page(request->page_size(), request->page_token()));
      BITRUNG_ASSIGN_OR_RETURN(auto rows, access->audit(page.size + 1, page.position));
      if (rows.size() > page.size) {
        rows.resize(page.size);
        response->set_next_page_token(page_token(rows.back().id));
      }
      for (const db::AuditRow& row : rows) to_proto(row, *response->add_entries());
      return absl::OkStatus();
    });
  }

 private:
  absl::StatusOr<auth::AccessControl*> find_access() const {
    if (auth::AccessControl* const access = context_.authority.access(); access != nullptr)
      return access;
    return absl::FailedPreconditionError(
        "this server knows its owner only; stop it and run \"bitrung-server init\" to make tokens");
  }

  absl::Status enrol(const v1::EnrolWorkerRequest& request, const std::string& address,
                     v1::EnrolWorkerResponse& response) const {
    BITRUNG_ASSIGN_OR_RETURN(auth::AccessControl* const access, find_access());
    BITRUNG_ASSIGN_OR_RETURN(
        auth::EnrolledWorker worker,
        access->enrol(request.token(), request.worker_id(), request.certificate_request_pem()));
    BITRUNG_RETURN_IF_ERROR(access->append_audit({.id = 0,
                                                  .at_ms = 0,
                                                  .name = worker.name,
                                                  .credential = {},
                                                  .address = address,
                                                  .method = "AccessService/EnrolWorker",
                                                  .subject = request.worker_id()}));
    response.set_certificate_pem(std::move(worker.certificate_pem));
    response.set_worker(std::move(worker.name));
    return absl::OkStatus();
  }

  const Context& context_;
};

}  // namespace

std::unique_ptr<grpc::Service> make_access_service(const Context& context) {
  return std::make_unique<AccessServiceImpl>(context);
}

}  // namespace bitrung::rpc
