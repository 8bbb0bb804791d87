#include "db/base/certificates.h"

#include <arpa/inet.h>

#include <algorithm>
#include <array>
#include <ctime>
#include <limits>
#include <memory>

#include <openssl/bio.h>
#include <openssl/err.h>
#include <openssl/evp.h>
#include <openssl/pem.h>
#include <openssl/rand.h>
#include <openssl/x509v3.h>

#include <fmt/format.h>

#include "db/base/status.h"

namespace bitrung {
namespace {

template <auto Function>
struct Free {
  template <typename T>
  void operator()(T* object) const {
    Function(object);
  }
};
using Bio = std::unique_ptr<BIO, Free<BIO_free>>;
using Key = std::unique_ptr<EVP_PKEY, Free<EVP_PKEY_free>>;
using Certificate = std::unique_ptr<X509, Free<X509_free>>;
using Request = std::unique_ptr<X509_REQ, Free<X509_REQ_free>>;
using Extension = std::unique_ptr<X509_EXTENSION, Free<X509_EXTENSION_free>>;
using Number = std::unique_ptr<BIGNUM, Free<BN_free>>;
using Names = std::unique_ptr<GENERAL_NAMES, Free<GENERAL_NAMES_free>>;

// Marks the id of a worker among the alternative names of its certificate.
constexpr std::string_view kWorkerUri = "urn:bitrung:worker:";
constexpr std::int64_t kClockSkewMs = 3'600'000;
constexpr int kSerialBytes = 16;
constexpr long kX509Version3 = 2;
constexpr std::size_t kPemBytesMax = 64 * 1024;

absl::Status openssl_error(std::string_view what) {
  std::array<char, 256> text{};
  ERR_error_string_n(ERR_get_error(), text.data(), text.size());
  ERR_clear_error();
  return absl::InternalError(fmt::format("{}: {}", what, text.data()));
}

Bio reader_of(std::string_view text) {
  return Bio(BIO_new_mem_buf(text.data(), static_cast<int>(std::min(text.size(), kPemBytesMax))));
}

std::string text_of(BIO* bio) {
  char* data = nullptr;
  const long size = BIO_get_mem_data(bio, &data);
  return {data, static_cast<std::size_t>(size)};
}

template <typename Write>
absl::StatusOr<std::string> to_pem(std::string_view what, Write write) {
  const Bio bio(BIO_new(BIO_s_mem()));
  if (bio == nullptr || write(bio.get()) != 1) return openssl_error(what);
  return text_of(bio.get());
}

absl::StatusOr<Key> read_key(std::string_view pem) {
  Key key(PEM_read_bio_PrivateKey(reader_of(pem).get(), nullptr, nullptr, nullptr));
  if (key != nullptr) return key;
  ERR_clear_error();
  return absl::InvalidArgumentError("the text holds no private key in PEM form");
}

absl::StatusOr<Certificate> parse_certificate(std::string_view pem) {
  Certificate certificate(PEM_read_bio_X509(reader_of(pem).get(), nullptr, nullptr, nullptr));
  if (certificate != nullptr) return certificate;
  ERR_clear_error();
  return absl::InvalidArgumentError("the text holds no certificate in PEM form");
}

bool add_name(X509_NAME* name, std::string_view common_name) {
  return X509_NAME_add_entry_by_txt(name, "CN", MBSTRING_UTF8,
                                    reinterpret_cast<const unsigned char*>(common_name.data()),
                                    static_cast<int>(common_name.size()), -1, 0) == 1;
}

// `value` in OpenSSL's notation; the text must come from us alone.
bool add_extension(X509* certificate, X509* issuer, int nid, const std::string& value) {
  X509V3_CTX context;
  X509V3_set_ctx_nodb(&context);
  X509V3_set_ctx(&context, issuer, certificate, nullptr, nullptr, 0);
  const Extension extension(X509V3_EXT_conf_nid(nullptr, &context, nid, value.c_str()));
  return extension != nullptr && X509_add_ext(certificate, extension.get(), -1) == 1;
}

// Built from parts, not from a text with commas in it.
bool add_alternative_names(X509* certificate, const std::vector<std::string>& hosts,
                           std::string_view worker_id) {
  const Names names(GENERAL_NAMES_new());
  if (names == nullptr) return false;
  const auto add = [&](int type, ASN1_STRING* value, std::string_view bytes) {
    GENERAL_NAME* name = GENERAL_NAME_new();
    if (name == nullptr || value == nullptr ||
        ASN1_STRING_set(value, bytes.data(), static_cast<int>(bytes.size())) != 1) {
      GENERAL_NAME_free(name);
      ASN1_STRING_free(value);
      return false;
    }
    GENERAL_NAME_set0_value(name, type, value);
    return sk_GENERAL_NAME_push(names.get(), name) > 0;
  };
  for (const std::string& host : hosts) {
    std::array<char, 16> address{};
    bool added = false;
    if (::inet_pton(AF_INET, host.c_str(), address.data()) == 1) {
      added = add(GEN_IPADD, ASN1_OCTET_STRING_new(), {address.data(), 4});
    } else if (::inet_pton(AF_INET6, host.c_str(), address.data()) == 1) {
      added = add(GEN_IPADD, ASN1_OCTET_STRING_new(), {address.data(), 16});
    } else {
      added = add(GEN_DNS, ASN1_IA5STRING_new(), host);
    }
    if (!added) return false;
  }
  if (!worker_id.empty() &&
      !add(GEN_URI, ASN1_IA5STRING_new(), fmt::format("{}{}", kWorkerUri, worker_id))) {
    return false;
  }
  return X509_add1_ext_i2d(certificate, NID_subject_alt_name, names.get(), 0, 0) == 1;
}

bool set_random_serial(X509* certificate) {
  std::array<unsigned char, kSerialBytes> bytes{};
  if (RAND_bytes(bytes.data(), kSerialBytes) != 1) return false;
  bytes[0] = static_cast<unsigned char>((bytes[0] & 0x3F) | 0x40);  // Positive, full length.
  const Number number(BN_bin2bn(bytes.data(), kSerialBytes, nullptr));
  return number != nullptr &&
         BN_to_ASN1_INTEGER(number.get(), X509_get_serialNumber(certificate)) != nullptr;
}

bool set_validity(X509* certificate, const Validity& validity) {
  const std::time_t from = (validity.from_ms - kClockSkewMs) / 1000;
  const std::time_t to = validity.from_ms / 1000 + validity.lifetime.count();
  return ASN1_TIME_set(X509_getm_notBefore(certificate), from) != nullptr &&
         ASN1_TIME_set(X509_getm_notAfter(certificate), to) != nullptr;
}

absl::StatusOr<Certificate> begin_certificate(EVP_PKEY* public_key, std::string_view common_name,
                                              const Validity& validity) {
  Certificate certificate(X509_new());
  if (certificate == nullptr || X509_set_version(certificate.get(), kX509Version3) != 1 ||
      !set_random_serial(certificate.get()) || !set_validity(certificate.get(), validity) ||
      !add_name(X509_get_subject_name(certificate.get()), common_name) ||
      X509_set_pubkey(certificate.get(), public_key) != 1) {
    return openssl_error("make a certificate");
  }
  return certificate;
}

struct LeafUse {
  std::string extended_key_usage;
  std::vector<std::string> hosts;
  std::string worker_id;
};

absl::StatusOr<std::string> issue(const IssuingAuthority& authority, EVP_PKEY* public_key,
                                  std::string_view common_name, const LeafUse& use,
                                  const Validity& validity) {
  BITRUNG_ASSIGN_OR_RETURN(const Certificate issuer, parse_certificate(authority.certificate_pem));
  BITRUNG_ASSIGN_OR_RETURN(const Key issuer_key, read_key(authority.key_pem));
  BITRUNG_ASSIGN_OR_RETURN(const Certificate leaf,
                           begin_certificate(public_key, common_name, validity));
  if (X509_set_issuer_name(leaf.get(), X509_get_subject_name(issuer.get())) != 1 ||
      !add_extension(leaf.get(), issuer.get(), NID_basic_constraints, "critical,CA:FALSE") ||
      !add_extension(leaf.get(), issuer.get(), NID_key_usage, "critical,digitalSignature") ||
      !add_extension(leaf.get(), issuer.get(), NID_ext_key_usage, use.extended_key_usage) ||
      !add_extension(leaf.get(), issuer.get(), NID_subject_key_identifier, "hash") ||
      !add_extension(leaf.get(), issuer.get(), NID_authority_key_identifier, "keyid") ||
      !add_alternative_names(leaf.get(), use.hosts, use.worker_id) ||
      X509_sign(leaf.get(), issuer_key.get(), EVP_sha256()) == 0) {
    return openssl_error("issue a certificate");
  }
  return to_pem("write a certificate",
                [&](BIO* bio) { return PEM_write_bio_X509(bio, leaf.get()); });
}

bool is_p256(EVP_PKEY* key) {
  std::array<char, 64> group{};
  std::size_t size = 0;
  return EVP_PKEY_get_base_id(key) == EVP_PKEY_EC &&
         EVP_PKEY_get_group_name(key, group.data(), group.size(), &size) == 1 &&
         std::string_view(group.data(), size) == "prime256v1";
}

std::int64_t to_ms(const ASN1_TIME* time) {
  std::tm parts{};
  if (ASN1_TIME_to_tm(time, &parts) != 1) return 0;
  return static_cast<std::int64_t>(::timegm(&parts)) * 1000;
}

std::string_view bytes_of(const ASN1_STRING* text) {
  return {reinterpret_cast<const char*>(ASN1_STRING_get0_data(text)),
          static_cast<std::size_t>(ASN1_STRING_length(text))};
}

}  // namespace

absl::StatusOr<std::string> make_private_key() {
  const Key key(EVP_EC_gen("P-256"));
  if (key == nullptr) return openssl_error("make a key");
  return to_pem("write a key", [&](BIO* bio) {
    return PEM_write_bio_PKCS8PrivateKey(bio, key.get(), nullptr, nullptr, 0, nullptr, nullptr);
  });
}

absl::StatusOr<IssuingAuthority> make_issuing_authority(std::string_view common_name,
                                                        const Validity& validity) {
  IssuingAuthority authority;
  BITRUNG_ASSIGN_OR_RETURN(authority.key_pem, make_private_key());
  BITRUNG_ASSIGN_OR_RETURN(const Key key, read_key(authority.key_pem));
  BITRUNG_ASSIGN_OR_RETURN(const Certificate certificate,
                           begin_certificate(key.get(), common_name, validity));
  X509* const self = certificate.get();
  if (X509_set_issuer_name(self, X509_get_subject_name(self)) != 1 ||
      !add_extension(self, self, NID_basic_constraints, "critical,CA:TRUE,pathlen:0") ||
      !add_extension(self, self, NID_key_usage, "critical,keyCertSign,cRLSign") ||
      !add_extension(self, self, NID_subject_key_identifier, "hash") ||
      X509_sign(self, key.get(), EVP_sha256()) == 0) {
    return openssl_error("make an authority");
  }
  BITRUNG_ASSIGN_OR_RETURN(authority.certificate_pem, to_pem("write a certificate", [&](BIO* bio) {
                             return PEM_write_bio_X509(bio, self);
                           }));
  return authority;
}

absl::StatusOr<std::string> issue_server_certificate(const IssuingAuthority& authority,
                                                     std::string_view key_pem,
                                                     const std::vector<std::string>& hosts,
                                                     const Validity& validity) {
  if (hosts.empty()) return absl::InvalidArgumentError("a server certificate needs a host name");
  BITRUNG_ASSIGN_OR_RETURN(const Key key, read_key(key_pem));
  return issue(authority, key.get(), hosts.front(),
               {.extended_key_usage = "serverAuth", .hosts = hosts, .worker_id = {}}, validity);
}

absl::StatusOr<std::string> make_certificate_request(std::string_view key_pem) {
  BITRUNG_ASSIGN_OR_RETURN(const Key key, read_key(key_pem));
  const Request request(X509_REQ_new());
  if (request == nullptr || X509_REQ_set_pubkey(request.get(), key.get()) != 1 ||
      X509_REQ_sign(request.get(), key.get(), EVP_sha256()) == 0) {
    return openssl_error("make a certificate request");
  }
  return to_pem("write a certificate request",
                [&](BIO* bio) { return PEM_write_bio_X509_REQ(bio, request.get()); });
}

absl::StatusOr<std::string> issue_worker_certificate(const IssuingAuthority& authority,
                                                     std::string_view request_pem,
                                                     std::string_view name,
                                                     std::string_view worker_id,
                                                     const Validity& validity) {
  const Request request(
      PEM_read_bio_X509_REQ(reader_of(request_pem).get(), nullptr, nullptr, nullptr));
  EVP_PKEY* const key = request == nullptr ? nullptr : X509_REQ_get0_pubkey(request.get());
  if (key == nullptr || !is_p256(key) || X509_REQ_verify(request.get(), key) != 1) {
    ERR_clear_error();
    return absl::InvalidArgumentError(
        "the certificate request is none in PEM form, signed by its own EC P-256 key");
  }
  return issue(
      authority, key, name,
      {.extended_key_usage = "clientAuth", .hosts = {}, .worker_id = std::string(worker_id)},
      validity);
}

absl::StatusOr<CertificateFacts> read_certificate(std::string_view certificate_pem) {
  BITRUNG_ASSIGN_OR_RETURN(const Certificate certificate, parse_certificate(certificate_pem));
  CertificateFacts facts;
  X509_NAME* const subject = X509_get_subject_name(certificate.get());
  if (const int at = X509_NAME_get_index_by_NID(subject, NID_commonName, -1); at >= 0) {
    facts.common_name = bytes_of(X509_NAME_ENTRY_get_data(X509_NAME_get_entry(subject, at)));
  }
  const ASN1_STRING* const serial = X509_get0_serialNumber(certificate.get());
  for (const char byte : bytes_of(serial)) {
    facts.serial += fmt::format("{:02x}", static_cast<unsigned char>(byte));
  }
  facts.expires_at_ms = to_ms(X509_get0_notAfter(certificate.get()));
  const Names names(static_cast<GENERAL_NAMES*>(
      X509_get_ext_d2i(certificate.get(), NID_subject_alt_name, nullptr, nullptr)));
  for (int i = 0; names != nullptr && i < sk_GENERAL_NAME_num(names.get()); ++i) {
    int type = 0;
    const auto* const value = static_cast<const ASN1_STRING*>(
        GENERAL_NAME_get0_value(sk_GENERAL_NAME_value(names.get(), i), &type));
    if (type == GEN_DNS) {
      facts.hosts.emplace_back(bytes_of(value));
    } else if (type == GEN_IPADD) {
      std::array<char, INET6_ADDRSTRLEN> text{};
      const int family = ASN1_STRING_length(value) == 4 ? AF_INET : AF_INET6;
      if (::inet_ntop(family, ASN1_STRING_get0_data(value), text.data(), text.size()) != nullptr)
        facts.hosts.emplace_back(text.data());
    } else if (type == GEN_URI && bytes_of(value).starts_with(kWorkerUri)) {
      facts.worker_id = bytes_of(value).substr(kWorkerUri.size());
    }
  }
  return facts;
}

absl::StatusOr<std::string> certificate_fingerprint(std::string_view certificate_pem) {
  BITRUNG_ASSIGN_OR_RETURN(const Certificate certificate, parse_certificate(certificate_pem));
  std::array<unsigned char, EVP_MAX_MD_SIZE> bytes{};
  unsigned size = 0;
  if (X509_digest(certificate.get(), EVP_sha256(), bytes.data(), &size) != 1)
    return openssl_error("digest a certificate");
  std::string text;
  for (unsigned i = 0; i < size; ++i) text += fmt::format("{}{:02X}", i == 0 ? "" : ":", bytes[i]);
  return text;
}

}  // namespace bitrung
