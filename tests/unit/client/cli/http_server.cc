#include "tests/unit/client/cli/http_server.h"

#include <arpa/inet.h>
#include <fmt/format.h>
#include <netinet/in.h>
#include <poll.h>
#include <sys/socket.h>

#include <array>
#include <string_view>

#include "db/base/check.h"

namespace bitrung::cli {
namespace {

void send_all(int fd, std::string_view bytes) {
  while (!bytes.empty()) {
    const ssize_t sent = ::send(fd, bytes.data(), bytes.size(), MSG_NOSIGNAL);
    if (sent <= 0) return;
    bytes.remove_prefix(static_cast<std::size_t>(sent));
  }
}

}  // namespace

HttpServer::HttpServer(Behaviour behaviour)
    : listener_(::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0)),
      behaviour_(std::move(behaviour)) {
  sockaddr_in address{};
  address.sin_family = AF_INET;
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  socklen_t size = sizeof address;
  auto* generic = reinterpret_cast<sockaddr*>(&address);
  BITRUNG_CHECK(::bind(listener_.get(), generic, size) == 0);
  BITRUNG_CHECK(::listen(listener_.get(), 8) == 0);
  BITRUNG_CHECK(::getsockname(listener_.get(), generic, &size) == 0);
  port_ = ntohs(address.sin_port);
  thread_ = std::thread([this] { serve(); });
}

HttpServer::~HttpServer() {
  stop_ = true;
  thread_.join();
}

std::string HttpServer::url() const {
  return fmt::format("http://127.0.0.1:{}/archive.tar.gz", port_);
}

std::vector<std::size_t> HttpServer::starts() const {
  const std::lock_guard lock(mutex_);
  return starts_;
}

void HttpServer::set(Behaviour behaviour) {
  const std::lock_guard lock(mutex_);
  behaviour_ = std::move(behaviour);
}

void HttpServer::serve() {
  while (!stop_) {
    pollfd waiting{listener_.get(), POLLIN, 0};
    if (::poll(&waiting, 1, 20) <= 0) continue;
    const FileDescriptor connection(::accept(listener_.get(), nullptr, nullptr));
    if (connection.valid()) answer(connection.get());
  }
}

void HttpServer::answer(int connection) {
  std::string request;
  std::array<char, 4096> bytes{};
  while (request.find("\r\n\r\n") == std::string::npos) {
    const ssize_t got = ::recv(connection, bytes.data(), bytes.size(), 0);
    if (got <= 0) return;
    request.append(bytes.data(), static_cast<std::size_t>(got));
  }
  const std::lock_guard lock(mutex_);
  std::size_t start = 0;
  const std::string_view range = "Range: bytes=";
  if (const std::size_t at = request.find(range); at != std::string::npos) {
    start = std::stoul(request.substr(at + range.size()));
  }
  starts_.push_back(start);
  if (behaviour_.status != 200) {
    send_all(connection,
             fmt::format("HTTP/1.1 {} Trouble\r\nContent-Length: 0\r\nConnection: close\r\n\r\n",
                         behaviour_.status));
    return;
  }
  const std::string& content = behaviour_.content;
  if (!behaviour_.ranges) start = 0;
  if (start > 0 && start >= content.size()) {
    send_all(
        connection,
        "HTTP/1.1 416 Range Not Satisfiable\r\nContent-Length: 0\r\nConnection: close\r\n\r\n");
    return;
  }
  std::string_view body = std::string_view(content).substr(start);
  send_all(connection,
           fmt::format("HTTP/1.1 {}\r\nContent-Length: {}\r\n{}Connection: close\r\n\r\n",
                       start > 0 ? "206 Partial Content" : "200 OK", body.size(),
                       start > 0 ? fmt::format("Content-Range: bytes {}-{}/{}\r\n", start,
                                               content.size() - 1, content.size())
                                 : std::string()));
  if (behaviour_.cuts > 0) {
    --behaviour_.cuts;
    body = body.substr(0, behaviour_.cut_after);
  }
  send_all(connection, body);
}

}  // namespace bitrung::cli
