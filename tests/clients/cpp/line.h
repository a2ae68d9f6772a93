// The line protocol of the client programs (see ../README.md): what all clients in C++ share.
#pragma once
#include <cstdlib>
#include <functional>
#include <iostream>
#include <string>
#include <thread>

// A line for the driver: `open PROTOCOL`, `text TEXT`, `closed CODE`, `failed WHY`.
inline void show(const char *word, const std::string &value) {
    std::cout << word << ' ' << value << std::endl;
}

// Calls back for each line of the driver, in a thread of its own; their end ends the program.
inline void obey(std::function<void(std::string)> send, std::function<void(int)> close) {
    std::thread([=] {
        for (std::string line; std::getline(std::cin, line);) {
            std::size_t at = line.find(' ') + 1;
            line[0] == 'c' ? close(std::stoi(line.substr(at))) : send(line.substr(at));
        }
        std::_Exit(0);
    }).detach();
}
