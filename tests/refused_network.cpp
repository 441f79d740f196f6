// Preloaded into every process of a test (tests/refused_network.py): connections to other machines and look-ups of
// their names are refused, and noted in the file NETWORK_LOG, a line each. Libraries that are not Python call these
// functions of the C library too. A process that has loaded this notes "loaded".

#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#include <arpa/inet.h>
#include <dlfcn.h>
#include <fcntl.h>
#include <netdb.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cerrno>
#include <cstdio>
#include <cstdlib>
#include <cstring>

static void note(const char* what, const char* whom) {
    const char* path = getenv("NETWORK_LOG");
    int file = path ? open(path, O_WRONLY | O_APPEND | O_CREAT | O_CLOEXEC, 0644) : -1;
    if (file < 0) return;
    char line[512];
    int size = snprintf(line, sizeof line, "%s%s%s\n", what, *whom ? " " : "", whom);
    if (size >= static_cast<int>(sizeof line)) size = sizeof line - 1;
    if (write(file, line, size) < 0) abort();
    close(file);
}

__attribute__((constructor)) static void note_loading() { note("loaded", ""); }

// Whether an address is of this machine. `text` gets it if it is not.
static bool is_local(const sockaddr* address, char* text, socklen_t size) {
    if (!address || (address->sa_family != AF_INET && address->sa_family != AF_INET6)) return true;
    if (address->sa_family == AF_INET) {
        const in_addr& four = reinterpret_cast<const sockaddr_in*>(address)->sin_addr;
        inet_ntop(AF_INET, &four, text, size);
        return (ntohl(four.s_addr) >> 24) == 127 || four.s_addr == INADDR_ANY;
    }
    const in6_addr& six = reinterpret_cast<const sockaddr_in6*>(address)->sin6_addr;
    inet_ntop(AF_INET6, &six, text, size);
    bool mapped = IN6_IS_ADDR_V4MAPPED(&six) && six.s6_addr[12] == 127;
    return mapped || IN6_IS_ADDR_LOOPBACK(&six) || IN6_IS_ADDR_UNSPECIFIED(&six);
}

template <class Function>
static Function find_next(const char* name) {
    return reinterpret_cast<Function>(dlsym(RTLD_NEXT, name));
}

extern "C" int connect(int descriptor, const sockaddr* address, socklen_t size) {
    char text[INET6_ADDRSTRLEN] = "";
    if (is_local(address, text, sizeof text))
        return find_next<decltype(&connect)>("connect")(descriptor, address, size);
    note("connect", text);
    errno = ENETUNREACH;
    return -1;
}

extern "C" ssize_t sendto(
    int descriptor, const void* data, size_t bytes, int flags, const sockaddr* address, socklen_t size) {
    char text[INET6_ADDRSTRLEN] = "";
    if (is_local(address, text, sizeof text))
        return find_next<decltype(&sendto)>("sendto")(descriptor, data, bytes, flags, address, size);
    note("sendto", text);
    errno = ENETUNREACH;
    return -1;
}

// Whether a name needs no other machine to be looked up: none, this machine's, or an address.
static bool is_known(const char* name, const addrinfo* hints) {
    if (!name || !strcmp(name, "localhost") || (hints && (hints->ai_flags & AI_NUMERICHOST))) return true;
    return strspn(name, "0123456789.") == strlen(name) || strchr(name, ':');
}

extern "C" int getaddrinfo(const char* name, const char* service, const addrinfo* hints, addrinfo** found) {
    if (is_known(name, hints))
        return find_next<decltype(&getaddrinfo)>("getaddrinfo")(name, service, hints, found);
    note("getaddrinfo", name);
    return EAI_FAIL;
}
